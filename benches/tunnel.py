# SPDX-License-Identifier: Apache-2.0 OR MIT
"""The measuring that benches/tunnel.sh tells of."""

import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PROGRAMS = pathlib.Path(sys.argv[1]).resolve()
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 3
SECONDS = float(sys.argv[3]) if len(sys.argv) > 3 else 4
MTU = 1400  # the only one that kernel-libipsec has
LARGE = MTU - 28  # payload of the largest UDP packet
TICK = os.sysconf("SC_CLK_TCK")
SECRET = "Interop-PSK-0123456789"
NAMES = {n: f"esplanade-{os.getpid()}-{n}" for n in "ab"}
INNER = {"a": "10.1.0.1", "b": "10.2.0.1"}
OUTER = {"a": "10.77.0.1", "b": "10.77.0.2"}


def run(*command, **more):
    return subprocess.run(command, check=True, capture_output=True, text=True, **more).stdout


def inside(n, *command):
    return ["ip", "netns", "exec", NAMES[n], *map(str, command)]


def lay_wire():
    for n in "ab":
        run("ip", "netns", "add", NAMES[n])
    run("ip", "link", "add", "wire", "netns", NAMES["a"], "type", "veth", "peer", "name", "wire", "netns", NAMES["b"])
    for n in "ab":
        for words in (f"addr add {OUTER[n]}/24 dev wire", f"addr add {INNER[n]}/32 dev lo", "link set lo up", "link set wire up"):
            run("ip", "-n", NAMES[n], *words.split())


def remove_wire():
    for n in "ab":
        subprocess.run(["ip", "netns", "del", NAMES[n]], capture_output=True)


class Engine:
    """Two gateways."""

    def __init__(self, directory):
        self.directory, self.processes = directory, []

    def spawn(self, n, *command, **environment):
        log = open(self.directory / f"{n}.log", "a")
        process = subprocess.Popen(inside(n, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                   env={**os.environ, **environment})
        self.processes.append(process)
        return process

    def cpu(self):
        """Seconds of processor time of both gateways so far."""
        total = 0
        for process in self.processes:
            fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total / TICK

    def wait(self, what, test, seconds=20):
        end = time.time() + seconds
        while not test():
            if time.time() > end:
                logs = "".join((self.directory / f"{n}.log").read_text()[-2000:] for n in "ab" if (self.directory / f"{n}.log").exists())
                raise RuntimeError(f"{what} does not come: {logs}")
            time.sleep(0.1)

    def stop(self):
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Bare(Engine):
    """No tunnel: what the wire and the two hosts add themselves."""
    available = staticmethod(lambda: True)

    def start(self):
        for n, peer in (("a", "b"), ("b", "a")):
            run("ip", "-n", NAMES[n], "route", "add", INNER[peer], "via", OUTER[peer], "src", INNER[n])

    def stop(self):
        for n, peer in (("a", "b"), ("b", "a")):
            run("ip", "-n", NAMES[n], "route", "del", INNER[peer])


class Ours(Engine):
    encap = "true"
    available = staticmethod(lambda: (PROGRAMS / "ikev2d").exists())

    def start(self):
        for n, peer in (("a", "b"), ("b", "a")):
            action = "start" if n == "a" else "none"
            (self.directory / f"{n}.toml").write_text(f"""
[daemon]
vici_socket = "{self.directory}/{n}.vici"
device = "software"
log_level = "warn"
tun = {{ name = "esp0", mtu = {MTU} }}
[connections.gw]
version = 2
local_addrs = ["{OUTER[n]}"]
remote_addrs = ["{OUTER[peer]}"]
proposals = ["aes128gcm16-prfsha256-x25519"]
encap = {self.encap}
keyingtries = 0
local = {{ auth = "psk", id = "{n}.test" }}
remote = {{ auth = "psk", id = "{peer}.test" }}
[connections.gw.children.net]
local_ts = ["{INNER[n]}/32"]
remote_ts = ["{INNER[peer]}/32"]
esp_proposals = ["aes128gcm16-esn"]
start_action = "{action}"
[secrets.ike-1]
secret = "{SECRET}"
""")
        for n in "ba":
            self.spawn(n, PROGRAMS / "ikev2d", "--config", self.directory / f"{n}.toml")
            self.wait("control socket", (self.directory / f"{n}.vici").exists)


class OursNative(Ours):
    encap = "false"


class StrongSwan(Engine):
    available = staticmethod(lambda: os.path.exists("/usr/sbin/charon-systemd")
                             and os.path.exists("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so"))

    def start(self):
        for n, peer in (("b", "a"), ("a", "b")):
            home = self.directory / n
            (home / "swanctl").mkdir(parents=True, exist_ok=True)
            (home / "strongswan.conf").write_text(f"""charon {{
 load = random nonce aes sha1 sha2 hmac kdf gmp curve25519 openssl gcm drbg pem pkcs1 pubkey kernel-libipsec kernel-netlink socket-default vici updown
 threads = 24
 plugins {{ vici {{ socket = unix://{home}/vici }}
  kernel-libipsec {{ load = yes
   allow_peer_ts = yes }}
  kernel-netlink {{ fwmark = !0x42 }}
  socket-default {{ fwmark = 0x42 }} }}
 syslog {{ daemon {{ default = -1 }} }} }}
charon-systemd {{ journal {{ default = -1 }} }}
""")
            (home / "swanctl" / "swanctl.conf").write_text(f"""connections {{ gw {{
 version = 2
 local_addrs = {OUTER[n]}
 remote_addrs = {OUTER[peer]}
 proposals = aes128gcm16-prfsha256-x25519
 local {{
  auth = psk
  id = {n}.test
 }}
 remote {{
  auth = psk
  id = {peer}.test
 }}
 children {{ net {{
  local_ts = {INNER[n]}/32
  remote_ts = {INNER[peer]}/32
  esp_proposals = aes128gcm16
 }} }} }} }}
secrets {{ ike-1 {{
 secret = "{SECRET}"
}} }}
""")
            self.spawn(n, "/usr/sbin/charon-systemd", STRONGSWAN_CONF=str(home / "strongswan.conf"))
            self.wait("control socket", (home / "vici").exists)
            run("timeout", "20", "swanctl", "--load-all", "--uri", f"unix://{home}/vici",
                env={**os.environ, "SWANCTL_DIR": str(home / "swanctl")})
        run("timeout", "20", "swanctl", "--initiate", "--child", "net", "--uri", f"unix://{self.directory}/a/vici")


class WireGuard(Engine):
    def start(self):
        keys = {n: run("wg", "genkey").strip() for n in "ab"}
        public = {n: run("wg", "pubkey", input=keys[n]).strip() for n in "ab"}
        for n, peer in (("a", "b"), ("b", "a")):
            name = f"esplanade{n}"
            self.spawn(n, *self.command, name, WG_PROCESS_FOREGROUND="1", LOG_LEVEL="error", WG_LOG_LEVEL="error")
            self.wait("control socket", pathlib.Path(f"/var/run/wireguard/{name}.sock").exists)
            file = self.directory / f"{n}.conf"
            file.write_text(f"[Interface]\nPrivateKey = {keys[n]}\nListenPort = 51820\n[Peer]\nPublicKey = {public[peer]}\n"
                            f"Endpoint = {OUTER[peer]}:51820\nAllowedIPs = {INNER[peer]}/32\n")
            run(*inside(n, "wg", "setconf", name, file))
            run("ip", "-n", NAMES[n], "link", "set", name, "mtu", str(MTU), "up")
            run("ip", "-n", NAMES[n], "route", "add", INNER[peer], "dev", name, "src", INNER[n])


def userland(program, *arguments):
    found = shutil.which(program) or shutil.which(program, path=os.environ.get("TOOLS"))
    return type(program, (WireGuard,), {"command": [found, *arguments], "available": staticmethod(lambda: found and shutil.which("wg"))})


ENGINES = {
    "bare": Bare,
    "ours": Ours,
    "ours-esp": OursNative,
    "strongswan": StrongSwan,
    "wireguard-go": userland("wireguard-go", "-f"),
    "boringtun": userland("boringtun-cli", "-f", "--disable-drop-privileges"),
    "gotatun": userland("gotatun", "-f", "--disable-drop-privileges"),
}


def reachable():
    return subprocess.run(inside("a", "ping", "-n", "-c", "1", "-W", "1", "-I", INNER["a"], INNER["b"]), capture_output=True).returncode == 0


def tcp(engine):
    server = subprocess.Popen(inside("b", "iperf3", "-s", "-1", "-B", INNER["b"]), stdout=subprocess.DEVNULL)
    time.sleep(0.3)
    before = engine.cpu()
    try:
        text = run(*inside("a", "iperf3", "-J", "-c", INNER["b"], "-B", INNER["a"], "-t", SECONDS))
    finally:
        server.kill()
        server.wait()
    spent = engine.cpu() - before
    end = json.loads(text)["end"]["sum_received"]
    return end["bits_per_second"] / 1e6, spent / (end["bytes"] * 8 / 1e9)


def datagrams(payload, rate, seconds, port=7000):
    """Starts a stream; what became of it is told by calling what is returned."""
    program = PROGRAMS / "datagrams"
    receiver = subprocess.Popen(inside("b", program, "receive", f"{INNER['b']}:{port}", seconds + 1), stdout=subprocess.PIPE, text=True)
    time.sleep(0.2)
    sender = subprocess.Popen(inside("a", program, "send", f"{INNER['a']}:{port}", f"{INNER['b']}:{port}", payload, rate, seconds),
                              stdout=subprocess.PIPE, text=True)

    def finish():
        sent, received = sender.communicate()[0], receiver.communicate()[0]
        return {**json.loads(received), "sent": json.loads(sent)["sent"]}
    return finish


def rate_of(report):
    return report["received"] / report["seconds"] if report["seconds"] else 0.0


def measure(engine, half):
    figures = {}
    figures["tcp_mbit"], figures["cpu_s_per_gbit"] = tcp(engine)
    seconds = max(1.0, SECONDS / 2)
    for name, payload in (("64", 64), ("1400", LARGE)):
        before = engine.cpu()
        report = datagrams(payload, 0, seconds)()
        figures[f"pps_{name}"], figures[f"offered_{name}"] = rate_of(report), report["sent"] / seconds
        figures[f"cpu_us_per_packet_{name}"] = (engine.cpu() - before) / max(report["received"], 1) * 1e6
    # The bare wire is asked for what each tunnel is asked for.
    for label, rate in ([("", figures["pps_1400"] / 2)] if half is None else half.items()):
        load = datagrams(LARGE, rate, seconds + 0.5, 7001)
        time.sleep(0.2)
        probe = datagrams(64, 2000, seconds)()
        report = load()
        lost = 1 - report["received"] / max(report["sent"], 1)
        figures["half" + label] = {"rate": rate, "load_lost": lost, **{k: probe[k] for k in ("p50_us", "p99_us", "p999_us", "max_us")}}
    return figures


def main():
    wanted = sys.argv[4:] or list(ENGINES)
    engines = [name for name in wanted if ENGINES[name].available()]
    skipped = [name for name in ENGINES if name in wanted and name not in engines]
    if "bare" in engines:  # last: it is asked for the others' rates
        engines.remove("bare")
        engines.append("bare")
    runs = []
    for _ in range(ROUNDS):
        results, half = {}, {}
        for name in engines:
            with tempfile.TemporaryDirectory() as directory:
                lay_wire()
                engine = ENGINES[name](pathlib.Path(directory))
                try:
                    engine.start()
                    engine.wait("the tunnel", reachable)
                    results[name] = measure(engine, half if name == "bare" else None)
                    if name != "bare":
                        half["-" + name] = results[name]["half"]["rate"]
                except Exception as error:  # one that does not start must not cost the others
                    print(f"{name}: {error}", file=sys.stderr)
                finally:
                    engine.stop()
                    remove_wire()
        runs.append(results)
    names = [name for name in engines if any(name in run for run in runs)]
    median = lambda name, pick: statistics.median(pick(run[name], run) for run in runs if name in run)
    table = {}
    for name in names:
        row = table[name] = {key: median(name, lambda r, _, k=key: r[k]) for key in
                             ("tcp_mbit", "cpu_s_per_gbit", "pps_64", "pps_1400", "cpu_us_per_packet_64", "cpu_us_per_packet_1400")}
        if name == "bare":
            continue
        row["half_rate"] = median(name, lambda r, _: r["half"]["rate"])
        row["half_lost"] = median(name, lambda r, _: r["half"]["load_lost"])
        for p in ("p50_us", "p99_us"):
            row[p] = median(name, lambda r, _, p=p: r["half"][p])
            row["added_" + p] = median(name, lambda r, run, p=p, n=name: r["half"][p] - run.get("bare", {}).get("half-" + n, {}).get(p, 0))
    print(f"{'':<14}{'tcp Mbit/s':>12}{'cpu s/Gbit':>12}{'pps 64':>10}{'pps 1400':>10}{'delay p50':>11}{'p99 us':>9}{'alone p50':>11}{'p99':>9}")
    for name, row in table.items():
        delays = "".join(f"{row[k]:>{w}.0f}" if k in row else " " * w for k, w in
                         (("added_p50_us", 11), ("added_p99_us", 9), ("p50_us", 11), ("p99_us", 9)))
        print(f"{name:<14}{row['tcp_mbit']:>12.0f}{row['cpu_s_per_gbit']:>12.3f}{row['pps_64']:>10.0f}{row['pps_1400']:>10.0f}{delays}")
    for name in skipped:
        print(f"{name}: not installed")
    held = True

    def bar(text, good):
        nonlocal held
        held &= good
        print(f"{'held  ' if good else 'MISSED'}  {text}")
    ours = table.get("ours")
    if ours:
        if "strongswan" in table:
            ratio = ours["tcp_mbit"] / table["strongswan"]["tcp_mbit"]
            bar(f"tcp >= 6 x strongSwan: {ratio:.1f}", ratio >= 6)
        for name in names:
            if name in ("ours", "ours-esp", "bare"):
                continue
            for key, more in (("tcp_mbit", True), ("pps_64", True), ("pps_1400", True), ("cpu_s_per_gbit", False)):
                ratio = ours[key] / table[name][key]
                bar(f"{key} {'>' if more else '<'} {name}: {ratio:.2f}", ratio > 1 if more else ratio < 1)
        if "bare" in table:
            bar(f"delay added, p50 <= 60 us: {ours['added_p50_us']:.0f}", ours["added_p50_us"] <= 60)
            bar(f"delay added, p99 <= 250 us: {ours['added_p99_us']:.0f}", ours["added_p99_us"] <= 250)
    machine = {"cores": os.cpu_count(), "kernel": os.uname().release, "load": os.getloadavg(), "rounds": ROUNDS, "seconds": SECONDS, "mtu": MTU}
    pathlib.Path(os.environ.get("OUT", "tunnel.json")).write_text(json.dumps({"machine": machine, "table": table, "runs": runs}, indent=1) + "\n")
    sys.exit(not held)


if __name__ == "__main__":
    main()
