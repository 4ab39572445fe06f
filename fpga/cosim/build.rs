// SPDX-License-Identifier: Apache-2.0 OR MIT
//! With feature `rtl`: verilates the RTL, compiles it, and writes down each design's ports.

fn main() {
    #[cfg(feature = "rtl")]
    rtl::build();
}

#[cfg(feature = "rtl")]
#[allow(clippy::expect_used, clippy::unwrap_used)] // A build script's way to say what is missing.
mod rtl {
    use std::fmt::Write;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::{env, fs};

    /// A module to simulate, with parameters, under a name of its own.
    struct Design {
        name: &'static str,
        top: &'static str,
        parameters: &'static [&'static str],
    }

    const DESIGNS: &[Design] = &[
        Design {
            name: "gcm4",
            top: "ipa_gcm",
            parameters: &["LANES=4", "SAS=16"],
        },
        Design {
            name: "gcm1",
            top: "ipa_gcm",
            parameters: &["LANES=1", "SAS=16"],
        },
        Design {
            name: "dma_read",
            top: "ipa_dma_read",
            parameters: &[],
        },
    ];

    /// A port as verilator's header declares it: `VL_IN8(&clk_i,0,0);`
    struct Port {
        name: String,
        octets: usize,
        input: bool,
    }

    pub(super) fn build() {
        let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR").unwrap());
        let out = PathBuf::from(env::var("OUT_DIR").unwrap());
        let rtl = here.parent().unwrap().join("rtl");
        println!("cargo:rerun-if-changed={}", rtl.display());
        println!("cargo:rerun-if-changed=build.rs");
        let include = verilator_root().join("include");
        let mut build = cc::Build::new();
        let mut glue = String::new();
        let mut rust = String::from("/// All designs.\npub static DESIGNS: &[&Design] = &[");
        for design in DESIGNS {
            write!(rust, "&{}, ", design.name.to_uppercase()).unwrap();
        }
        rust += "];\n";
        for design in DESIGNS {
            let folder = out.join(design.name);
            verilate(design, &rtl, &folder);
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "cpp") {
                    build.file(path);
                }
            }
            build.include(&folder);
            let header = fs::read_to_string(folder.join(format!("V{}.h", design.name))).unwrap();
            let ports = ports(&header);
            cpp(design, &ports, &mut glue);
            declare(design, &ports, &mut rust);
        }
        let glue_file = out.join("glue.cpp");
        fs::write(&glue_file, glue).unwrap();
        fs::write(out.join("designs.rs"), rust).unwrap();
        build
            .file(glue_file)
            .file(include.join("verilated.cpp"))
            .file(include.join("verilated_threads.cpp"))
            .include(&include)
            .include(include.join("vltstd"))
            .cpp(true)
            .std("c++20")
            .warnings(false)
            .define("VM_COVERAGE", "0")
            .define("VM_SC", "0")
            .define("VM_TRACE", "0")
            .opt_level(2)
            .debug(false)
            .flag_if_supported("-faligned-new")
            .compile("verilated");
    }

    fn verilator_root() -> PathBuf {
        let answer = Command::new("verilator")
            .args(["--getenv", "VERILATOR_ROOT"])
            .output()
            .expect("feature rtl needs verilator 5: apt-get install verilator");
        PathBuf::from(String::from_utf8(answer.stdout).unwrap().trim())
    }

    fn verilate(design: &Design, rtl: &Path, folder: &Path) {
        let _ = fs::remove_dir_all(folder);
        let mut command = Command::new("verilator");
        command
            .args(["--cc", "--assert", "-O3", "-Wno-lint", "-Wno-fatal"])
            .args(["--x-assign", "fast", "--x-initial", "fast"])
            .args(["--top-module", design.top, "--prefix"])
            .arg(format!("V{}", design.name))
            .arg("--Mdir")
            .arg(folder)
            .args(design.parameters.iter().map(|pair| format!("-G{pair}")))
            .arg("-y")
            .arg(rtl)
            .arg("-y")
            .arg(rtl.join("generated"));
        // Packages first; modules are found by name.
        for package in ["aes_pkg.sv", "ghash_pkg.sv"] {
            command.arg(rtl.join(package));
        }
        command.arg(rtl.join(format!("{}.sv", design.top)));
        assert!(command.status().unwrap().success(), "{command:?}");
    }

    fn ports(header: &str) -> Vec<Port> {
        header
            .lines()
            .filter_map(|line| {
                let rest = line.trim().strip_prefix("VL_")?;
                let (kind, rest) = rest.split_once("(&")?;
                let input = kind.starts_with("IN");
                if !input && !kind.starts_with("OUT") {
                    return None;
                }
                let rest = rest.strip_suffix(");")?;
                let mut parts = rest.split(',');
                let name = parts.next()?.to_owned();
                let high: usize = parts.next()?.parse().ok()?;
                let octets = match kind.trim_start_matches("IN").trim_start_matches("OUT") {
                    "8" => 1,
                    "16" => 2,
                    "" => 4,
                    "64" => 8,
                    "W" => high / 32 * 4 + 4,
                    _ => return None,
                };
                Some(Port {
                    name,
                    octets,
                    input,
                })
            })
            .collect()
    }

    fn cpp(design: &Design, ports: &[Port], text: &mut String) {
        let name = design.name;
        let pointers: String = ports
            .iter()
            .map(|port| format!("(void*)&m->top.{}, ", port.name))
            .collect();
        write!(
            text,
            r#"
#include "V{name}.h"
struct M{name} {{ VerilatedContext context; V{name} top{{&context}}; }};
extern "C" {{
void* {name}_new() {{ return new M{name}; }}
void {name}_free(void* p) {{ auto m = (M{name}*)p; m->top.final(); delete m; }}
void {name}_eval(void* p) {{ ((M{name}*)p)->top.eval(); }}
void* {name}_port(void* p, size_t n) {{
  auto m = (M{name}*)p;
  void* ports[] = {{ {pointers} }};
  return ports[n];
}}
}}
"#
        )
        .unwrap();
    }

    fn declare(design: &Design, ports: &[Port], text: &mut String) {
        let name = design.name;
        write!(
            text,
            "unsafe extern \"C\" {{\n\
             fn {name}_new() -> *mut c_void;\n\
             fn {name}_free(model: *mut c_void);\n\
             fn {name}_eval(model: *mut c_void);\n\
             fn {name}_port(model: *mut c_void, port: usize) -> *mut c_void;\n\
             }}\n\
             /// `{top}` with {parameters:?}.\n\
             pub static {upper}: Design = Design {{ new: {name}_new, free: {name}_free, \
             eval: {name}_eval, port: {name}_port, ports: &[\n",
            top = design.top,
            parameters = design.parameters,
            upper = name.to_uppercase(),
        )
        .unwrap();
        for port in ports {
            writeln!(
                text,
                "PortShape {{ name: {:?}, octets: {}, input: {} }},",
                port.name, port.octets, port.input
            )
            .unwrap();
        }
        text.push_str("] };\n");
    }
}
