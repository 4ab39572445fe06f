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
    use std::sync::Mutex;
    use std::{env, fs};

    /// A module to simulate, with parameters, under a name of its own.
    struct Design {
        name: &'static str,
        top: &'static str,
        parameters: &'static [&'static str],
    }

    /// SAs of the card.
    const SAS: &str = "SAS=4096";

    const CARD: Design = Design {
        name: "card",
        top: "ipa_card",
        parameters: &["LANES=4", SAS, "QUEUES=8"],
    };

    /// In every build, for the comparison with the functional model is `sim`'s.
    const PORT_STEER: Design = Design {
        name: "port_steer",
        top: "ipa_port_steer",
        parameters: &[SAS],
    };

    const BLOCKS: &[Design] = &[
        Design {
            name: "gcm4",
            top: "ipa_gcm",
            // As it is synthesised; the others are as they are quickest.
            parameters: &["LANES=4", "SAS=16", "KARATSUBA=3"],
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

    const PACKAGES: &[&str] = &[
        "aes_pkg.sv",
        "ghash_pkg.sv",
        "ipa_card_pkg.sv",
        "ipa_pkg.sv",
        "generated/ipa_registers_pkg.sv",
        "generated/ipa_doorbells_pkg.sv",
    ];

    /// verilator's library finds a model's context by the thread that calls, in destructors and failing
    /// assertions, too, and by default it is the one made last, by whatever thread, even if it is gone.
    /// So each call names its own. And a context has a pool of threads unless told otherwise.
    const CONTEXT: &str = "
#include \"verilated.h\"
struct Alone : VerilatedContext { Alone() { threads(1); } };
";

    /// Writes what of the model's RTL was reached, a file for each model, into the folder `RTL_COVERAGE`.
    const COVERAGE: &str = "
#include \"verilated_cov.h\"
#include <atomic>
#include <cstdlib>
#include <string>
#include <unistd.h>
static void tell_coverage(VerilatedContext& context, const char* design) {
  static std::atomic<unsigned> count{0};
  auto folder = getenv(\"RTL_COVERAGE\");
  if (!folder) return;
  auto name = std::string(folder) + \"/\" + design + \"-\" + std::to_string(getpid()) + \"-\"
              + std::to_string(count++) + \".dat\";
  context.coveragep()->write(name.c_str());
}
";
    const NO_COVERAGE: &str = "
static void tell_coverage(VerilatedContext&, const char*) {}
";

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
        let blocks = env::var_os("CARGO_FEATURE_BLOCKS").map_or(&[][..], |_| BLOCKS);
        let designs: Vec<&Design> = [&CARD, &PORT_STEER].into_iter().chain(blocks).collect();
        let coverage = env::var_os("CARGO_FEATURE_COVERAGE").is_some();
        let include = verilator_root().join("include");
        let mut build = cc::Build::new();
        build
            .include(&include)
            .include(include.join("vltstd"))
            .cpp(true)
            .std("c++20")
            .warnings(false)
            .define("VM_COVERAGE", if coverage { "1" } else { "0" })
            .define("VM_SC", "0")
            .define("VM_TRACE", "0")
            // With its counters in between the code gains little, and takes long to compile.
            .opt_level(if coverage { 1 } else { 3 })
            .debug(false)
            .flag_if_supported("-faligned-new");
        let mut sources = Vec::new();
        let mut glue = CONTEXT.to_owned();
        glue += if coverage { COVERAGE } else { NO_COVERAGE };
        let mut rust = String::from("/// All designs.\npub static DESIGNS: &[&Design] = &[");
        for design in &designs {
            write!(rust, "&{}, ", design.name.to_uppercase()).unwrap();
        }
        rust += "];\n";
        let sas = SAS.trim_start_matches("SAS=");
        writeln!(
            rust,
            "/// SAs that the card holds.\npub const SAS: u32 = {sas};"
        )
        .unwrap();
        for design in &designs {
            let folder = out.join(design.name);
            verilate(design, &rtl, &folder, coverage);
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "cpp") {
                    sources.push(path);
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
        sources.push(glue_file);
        // clippy has a build of its own, and links nothing.
        let wrapper = env::var_os("RUSTC_WORKSPACE_WRAPPER").unwrap_or_default();
        if wrapper.to_string_lossy().contains("clippy") {
            return;
        }
        sources.push(include.join("verilated.cpp"));
        sources.push(include.join("verilated_threads.cpp"));
        if coverage {
            sources.push(include.join("verilated_cov.cpp"));
        }
        let mut all = cc::Build::new();
        for object in compile(&build, &sources) {
            all.object(object);
        }
        all.cpp(true).compile("verilated");
    }

    /// Compiles each source, some at a time.
    fn compile(build: &cc::Build, sources: &[PathBuf]) -> Vec<PathBuf> {
        let jobs = env::var("NUM_JOBS").ok().and_then(|jobs| jobs.parse().ok());
        let next = Mutex::new(sources.iter());
        let objects = Mutex::new(Vec::new());
        let work = || {
            while let Some(source) = { next.lock().unwrap().next() } {
                let mut one = build.clone();
                // What runs once, at the start.
                if source.to_string_lossy().ends_with("__Slow.cpp") {
                    one.opt_level(0);
                }
                let made = one.file(source).compile_intermediates();
                objects.lock().unwrap().extend(made);
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..jobs.unwrap_or(1usize).clamp(1, 8) {
                scope.spawn(work);
            }
        });
        let mut objects = objects.into_inner().unwrap();
        objects.sort();
        objects
    }

    fn verilator_root() -> PathBuf {
        let answer = Command::new("verilator")
            .args(["--getenv", "VERILATOR_ROOT"])
            .output()
            .expect("feature rtl needs verilator 5: apt-get install verilator");
        PathBuf::from(String::from_utf8(answer.stdout).unwrap().trim())
    }

    fn verilate(design: &Design, rtl: &Path, folder: &Path, coverage: bool) {
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
        if coverage {
            // Wide signals are data: that each of their bits moves tells little, and costs most of the time.
            command.args(["--coverage", "--coverage-max-width", "64"]);
            command.arg(rtl.join("coverage.vlt"));
        }
        // Packages first; modules are found by name.
        for package in PACKAGES {
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
struct M{name} {{ Alone context; V{name} top{{&context}}; }};
static M{name}* {name}_here(void* p) {{
  auto m = (M{name}*)p;
  Verilated::threadContextp(&m->context);
  return m;
}}
extern "C" {{
void* {name}_new() {{ return new M{name}; }}
void {name}_free(void* p) {{
  auto m = {name}_here(p);
  m->top.final();
  tell_coverage(m->context, "{name}");
  delete m;
  Verilated::threadContextp(nullptr);
}}
void {name}_eval(void* p) {{ {name}_here(p)->top.eval(); }}
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
