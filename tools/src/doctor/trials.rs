//! The doctor before made-up machines: a healthy one, and each illness by itself.

use std::fs;
use std::time::Duration;

use kernels::Level;
use tempfile::TempDir;
use transport::verbs::Windows;

use super::answers::{Answers, Library, Room, Shown};
use super::counters::{self, Counted};
use super::finding::{Finding, Verdict};
use super::tree::Tree;
use super::{Diagnosis, Need, Section, diagnose, fabric, text};

/// A machine of files.
struct Machine {
    root: TempDir,
    answers: Answers,
}

impl Machine {
    /// Nothing is wrong with it, and it has no RDMA.
    fn healthy() -> Machine {
        let answers = Answers {
            io_uring: Ok(()),
            level: Level::Avx2,
            shm: Some(Room { bytes: 8 << 30, free_bytes: 8 << 30 }),
            library: Library::Shows([].into()),
            pfc: [].into(),
        };
        let machine = Machine { root: tempfile::tempdir().expect("a folder"), answers };
        machine
            .file("/proc/sys/kernel/osrelease", "6.12.0\n")
            .file("/proc/sys/kernel/io_uring_disabled", "0\n")
            .file("/proc/sys/vm/overcommit_memory", "0\n")
            .file("/proc/cpuinfo", "processor\t: 0\nmodel name\t: Example 9000\n")
            .file("/proc/meminfo", "MemTotal:       16777216 kB\nMemAvailable:   8388608 kB\n")
            .status("0-3", "0000000000000000")
            .limits("unlimited", "65536")
            .file("/proc/self/cgroup", "0::/\n")
            .file("/sys/devices/system/cpu/online", "0-3\n")
            .file("/sys/devices/system/node/online", "0\n")
            .file("/sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n")
            .file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    }

    fn file(self, path: &str, text: &str) -> Machine {
        let path = self.root.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
        self
    }

    fn without(self, path: &str) -> Machine {
        fs::remove_file(self.root.path().join(path.trim_start_matches('/'))).expect("there");
        self
    }

    fn status(self, cpus: &str, capabilities: &str) -> Machine {
        let text =
            format!("Name:\tgradwire\nCapEff:\t{capabilities}\nCpus_allowed_list:\t{cpus}\n");
        self.file("/proc/self/status", &text)
    }

    fn limits(self, locked: &str, files: &str) -> Machine {
        let head = "Limit                     Soft Limit           Hard Limit           Units\n";
        let files = format!("Max open files            {files}  1048576  files\n");
        let locked = format!("Max locked memory         {locked}  {locked}  bytes\n");
        self.file("/proc/self/limits", &format!("{head}{files}{locked}"))
    }

    /// A device with one port that is active; its file can be opened, the library shows it.
    fn device(mut self, name: &str, layer: &str) -> Machine {
        self.answers.library = Library::Shows([(format!("{name}/1"), shown(4096))].into());
        let port = format!("/sys/class/infiniband/{name}/ports/1");
        self.file(&format!("/sys/class/infiniband/{name}/node_type"), "1: CA\n")
            .file(&format!("{port}/state"), "4: ACTIVE\n")
            .file(&format!("{port}/phys_state"), "5: LinkUp\n")
            .file(&format!("{port}/link_layer"), layer)
            .file(&format!("{port}/rate"), "100 Gb/sec (4X EDR)\n")
            .file(&format!("{port}/lid"), "0x0\n")
            .file("/sys/class/infiniband_verbs/abi_version", "6\n")
            .file(&format!("/sys/class/infiniband_verbs/uverbs_{name}/ibdev"), name)
            .file(&format!("/dev/infiniband/uverbs_{name}"), "")
    }

    /// A GID of the port of that device.
    fn gid(self, device: &str, index: u32, gid: &str, kind: &str, netdev: &str) -> Machine {
        let port = format!("/sys/class/infiniband/{device}/ports/1");
        self.file(&format!("{port}/gids/{index}"), gid)
            .file(&format!("{port}/gid_attrs/types/{index}"), kind)
            .file(&format!("{port}/gid_attrs/ndevs/{index}"), netdev)
    }

    /// RoCE on a NIC with frames of 9000 bytes, on the second of two memory nodes.
    fn roce() -> Machine {
        let machine = Machine::healthy()
            .device("mlx5_0", "Ethernet\n")
            .file("/sys/class/infiniband/mlx5_0/device/numa_node", "1\n")
            .file("/sys/class/net/ens1/mtu", "9000\n")
            .file("/sys/devices/system/node/online", "0-1\n")
            .file("/sys/devices/system/node/node0/cpulist", "0-1\n")
            .file("/sys/devices/system/node/node1/cpulist", "2-3\n")
            .file("/sys/devices/system/node/node0/distance", "10 21\n")
            .file("/sys/devices/system/node/node1/distance", "21 10\n");
        let driver = machine.root.path().join("sys/class/infiniband/mlx5_0/device/driver");
        std::os::unix::fs::symlink("/sys/bus/pci/drivers/mlx5_core", driver).expect("a link");
        machine
            .gid("mlx5_0", 0, LINK_LOCAL, "IB/RoCE v1", "ens1")
            .gid("mlx5_0", 1, LINK_LOCAL, "RoCE v2", "ens1")
            .gid("mlx5_0", 2, MAPPED, "IB/RoCE v1", "ens1")
            .gid("mlx5_0", 3, MAPPED, "RoCE v2", "ens1")
            .gid("mlx5_0", 4, "0000:0000:0000:0000:0000:0000:0000:0000", "", "")
    }

    /// InfiniBand, with a subnet manager at work.
    fn infiniband() -> Machine {
        Machine::healthy()
            .device("mlx5_1", "InfiniBand\n")
            .file("/sys/class/infiniband/mlx5_1/ports/1/lid", "0x1c\n")
            .file("/sys/class/infiniband/mlx5_1/ports/1/gids/0", LINK_LOCAL)
    }

    /// Soft-RoCE as Linux 6.12 shows it.
    fn software() -> Machine {
        Machine::healthy()
            .device("rxe0", "Ethernet\n")
            .file("/sys/class/infiniband/rxe0/parent", "rdma0\n")
            .file("/sys/class/infiniband/rxe0/ports/1/rate", "2.5 Gb/sec (1X SDR)\n")
            .file("/sys/class/net/rdma0/mtu", "4200\n")
            .gid("rxe0", 0, LINK_LOCAL, "RoCE v2", "rdma0")
            .gid("rxe0", 1, MAPPED, "RoCE v2", "rdma0")
    }

    fn tree(&self) -> Tree {
        Tree::new(self.root.path())
    }

    fn diagnose(&self, need: Option<Need>) -> Diagnosis {
        let tree = self.tree();
        diagnose(&tree, &self.answers, &fabric::read(&tree), Vec::new(), need)
    }

    /// The finding of that name; of several, the last one.
    fn finding(&self, name: &str) -> Finding {
        let all = findings(&self.diagnose(None));
        let found = all.iter().rev().find(|finding| finding.name == name);
        found.unwrap_or_else(|| panic!("no '{name}' in {all:#?}")).clone()
    }

    /// The finding of that name is of that verdict, and its three texts have all of `words`.
    fn check(&self, name: &str, verdict: Verdict, words: &[&str]) {
        let finding = self.finding(name);
        assert_eq!(finding.verdict, verdict, "{finding:?}");
        let text = format!("{} {:?} {:?}", finding.value, finding.reason, finding.remedy);
        for word in words {
            assert!(text.contains(word), "no '{word}' in {text}");
        }
    }
}

/// What the library says of a port of a device with memory windows.
fn shown(payload_bytes: u64) -> Shown {
    Shown { payload_bytes, windows: Windows::OfQueuePair }
}

const LINK_LOCAL: &str = "fe80:0000:0000:0000:0e42:a1ff:fe00:0001";
const MAPPED: &str = "0000:0000:0000:0000:0000:ffff:0a4d:0001";

fn findings(diagnosis: &Diagnosis) -> Vec<Finding> {
    diagnosis.sections.iter().flat_map(|section| section.findings.clone()).collect()
}

/// Names of all that is not fine.
fn ills(machine: &Machine) -> Vec<String> {
    let all = findings(&machine.diagnose(None)).into_iter();
    all.filter(|finding| finding.verdict > Verdict::Ok).map(|finding| finding.name).collect()
}

#[test]
fn a_machine_without_rdma_is_fit_unless_rdma_is_needed() {
    let machine = Machine::healthy();
    assert_eq!(ills(&machine), ["devices", "messages"], "and both are notes");
    machine.check("devices", Verdict::Note, &["none", "ib_core"]);
    assert!(machine.diagnose(None).fit);
    assert!(!machine.diagnose(Some(Need::Rdma)).fit);
}

#[test]
fn nothing_is_said_against_a_healthy_nic() {
    for (machine, port) in [(Machine::roce(), "mlx5_0/1"), (Machine::infiniband(), "mlx5_1/1")] {
        assert_eq!(ills(&machine), [""; 0]);
        assert!(machine.diagnose(Some(Need::Rdma)).fit);
        machine.check("messages", Verdict::Ok, &["RDMA", port]);
    }
    Machine::roce().check("mlx5_0", Verdict::Ok, &["mlx5_core"]);
    let state = "active, Ethernet (ens1), 100 Gb/sec (4X EDR)";
    Machine::roce().check("mlx5_0/1 state", Verdict::Ok, &[state]);
    Machine::roce().check("mlx5_0/1 GIDs", Verdict::Ok, &["3 ::ffff:10.77.0.1 RoCE v2"]);
    Machine::roce().check("mlx5_0/1 MTU", Verdict::Ok, &["4096", "9000"]);
    Machine::infiniband().check("mlx5_1/1 state", Verdict::Ok, &["InfiniBand, LID 28"]);
}

#[test]
fn software_devices_are_known_for_what_they_are() {
    let machine = Machine::software();
    assert_eq!(ills(&machine), ["rxe0"]);
    machine.check("rxe0", Verdict::Note, &["software, on rdma0", "nothing is won over TCP"]);
    machine.check("messages", Verdict::Ok, &["rxe0/1"]);
}

#[test]
fn a_port_that_is_down_is_named_with_what_to_look_at() {
    let down = "/sys/class/infiniband/mlx5_0/ports/1/state";
    let machine = Machine::roce().file(down, "1: DOWN\n");
    machine.check("mlx5_0/1 state", Verdict::Warning, &["down", "ip link set ens1 up", "cable"]);
    machine.check("messages", Verdict::Note, &["TCP", "no device has a port that is active"]);
    let port = "/sys/class/infiniband/mlx5_1/ports/1";
    let machine = Machine::infiniband().file(&format!("{port}/state"), "2: INIT\n");
    machine.check("mlx5_1/1 state", Verdict::Warning, &["init", "opensm"]);
    let machine = Machine::infiniband()
        .file(&format!("{port}/state"), "1: DOWN\n")
        .file(&format!("{port}/phys_state"), "2: Polling\n");
    machine.check("mlx5_1/1 state", Verdict::Warning, &["nobody at the other end"]);
}

#[test]
fn a_port_that_has_only_addresses_of_its_link_is_not_used() {
    let machine = Machine::healthy()
        .device("mlx5_0", "Ethernet\n")
        .gid("mlx5_0", 0, LINK_LOCAL, "RoCE v2", "ens1");
    machine.check("mlx5_0/1 GIDs", Verdict::Warning, &["ip address add", "dev ens1"]);
    machine.check("messages", Verdict::Note, &["no device"]);
    let machine = machine.gid("mlx5_0", 1, MAPPED, "IB/RoCE v1", "ens1");
    machine.check("mlx5_0/1 GIDs", Verdict::Note, &["RoCE v1 only"]);
}

#[test]
fn short_frames_are_told_with_the_payload_that_they_leave() {
    let mut machine = Machine::roce().file("/sys/class/net/ens1/mtu", "1500\n");
    machine.answers.library = Library::Shows([("mlx5_0/1".to_owned(), shown(1024))].into());
    let words = ["1024 bytes, in frames of 1500", "mtu 9000"];
    machine.check("mlx5_0/1 MTU", Verdict::Note, &words);
    machine.answers.library = Library::Missing("none".to_owned());
    machine.check("mlx5_0/1 MTU", Verdict::Note, &words);
    let mut machine = Machine::infiniband();
    machine.answers.library = Library::Shows([("mlx5_1/1".to_owned(), shown(2048))].into());
    machine.check("mlx5_1/1 MTU", Verdict::Note, &["2048 bytes", "subnet manager"]);
}

#[test]
fn too_little_memory_to_lock_is_told_unless_the_process_may_lock_any() {
    let machine = Machine::roce().limits("65536", "65536");
    machine.check("locked memory", Verdict::Warning, &["64 KiB", "ulimit -l", "LimitMEMLOCK"]);
    let machine = machine.status("0-3", "0000000000004000");
    machine.check("locked memory", Verdict::Ok, &["64 KiB", "CAP_IPC_LOCK"]);
    let machine = Machine::roce().limits("1073741824", "65536");
    machine.check("locked memory", Verdict::Note, &["1 GiB"]);
}

/// `roce` with a second NIC, on the first memory node.
fn two_rails() -> Machine {
    let mut machine = Machine::roce()
        .device("mlx5_1", "Ethernet\n")
        .file("/sys/class/infiniband/mlx5_1/device/numa_node", "0\n")
        .gid("mlx5_1", 0, MAPPED, "RoCE v2", "ens2");
    let ports = ["mlx5_0/1", "mlx5_1/1"].map(|port| (port.to_owned(), shown(4096)));
    machine.answers.library = Library::Shows(ports.into());
    machine
}

#[test]
fn rails_are_told_in_the_order_in_which_each_nodes_cores_use_them() {
    let machine = two_rails();
    let value = |name: &str| machine.finding(name).value;
    assert_eq!(
        value("rails of node 0"),
        "mlx5_1/1 (node 0, distance 10), mlx5_0/1 (node 1, distance 21)"
    );
    assert_eq!(
        value("rails of node 1"),
        "mlx5_0/1 (node 1, distance 10), mlx5_1/1 (node 0, distance 21)"
    );
    let unknown = machine.file("/sys/class/infiniband/mlx5_0/device/numa_node", "-1\n");
    let order = "mlx5_0/1 (node unknown), mlx5_1/1 (node 0, distance 10)";
    assert_eq!(unknown.finding("rails of node 0").value, order);
    let one_node = two_rails().file("/sys/devices/system/node/online", "0\n");
    assert_eq!(one_node.finding("rails").value, "mlx5_0/1, mlx5_1/1: as many lanes each");
}

#[test]
fn rails_that_are_all_far_from_the_processors_are_told_with_the_way_to_their_node() {
    Machine::roce().check("rails of node 1", Verdict::Ok, &["mlx5_0/1 (node 1, distance 10)"]);
    let machine = Machine::roce().status("0-1", "0");
    let words = ["distance 21", "crosses nodes", "--cpunodebind=1"];
    machine.check("rails of node 0", Verdict::Warning, &words);
    assert_eq!(ills(&two_rails().status("0-1", "0")), [""; 0], "the other one is near");
}

#[test]
fn whether_a_ring_can_be_opened_to_one_peer_alone_is_told() {
    let mut machine = Machine::roce();
    machine.check("mlx5_0 windows", Verdict::Ok, &["2B", "its own peer alone"]);
    let none = Shown { windows: Windows::None, ..shown(4096) };
    machine.answers.library = Library::Shows([("mlx5_0/1".to_owned(), none)].into());
    machine.check("mlx5_0 windows", Verdict::Note, &["none", "all its rings"]);
}

#[test]
fn what_keeps_programs_from_a_device_is_told() {
    let machine = Machine::roce().without("/dev/infiniband/uverbs_mlx5_0");
    machine.check("mlx5_0", Verdict::Warning, &["cannot be opened", "--device=/dev/infiniband"]);
    machine.check("messages", Verdict::Note, &["TCP"]);
    let machine = Machine::roce().without("/sys/class/infiniband_verbs/uverbs_mlx5_0/ibdev");
    machine.check("mlx5_0", Verdict::Warning, &["modprobe ib_uverbs"]);
    let mut machine = Machine::roce();
    machine.answers.library = Library::Missing("libibverbs.so.1: no such file".to_owned());
    machine.check("library", Verdict::Warning, &["none", "no such file", "apt install"]);
    machine.check("messages", Verdict::Note, &["no library"]);
    machine.answers.library = Library::Refuses("ibv_open_device of mlx5_0: errno 1".to_owned());
    machine.check("library", Verdict::Warning, &["opens no device", "ibv_open_device"]);
    machine.answers.library = Library::Shows([("rxe0/1".to_owned(), shown(4096))].into());
    machine.check("mlx5_0", Verdict::Warning, &["no provider", "ibverbs-providers"]);
    let mut machine = Machine::healthy();
    machine.answers.library = Library::Missing("libibverbs.so.1: no such file".to_owned());
    machine.check("library", Verdict::Note, &["none"]);
    let machine = Machine::roce().file("/sys/class/infiniband/mlx5_0/node_type", "4: RNIC\n");
    machine.check("mlx5_0", Verdict::Note, &["iWARP", "by TCP"]);
    machine.check("messages", Verdict::Note, &["TCP"]);
    let slot = "/sys/bus/pci/devices/0000:3b:00.0";
    let machine = Machine::healthy()
        .file(&format!("{slot}/class"), "0x020000\n")
        .file(&format!("{slot}/vendor"), "0x15b3\n");
    machine.check("devices", Verdict::Warning, &["modprobe mlx5_ib"]);
    let machine = Machine::roce().file("/proc/sys/kernel/osrelease", "5.4.0\n");
    machine.check("fork", Verdict::Warning, &["5.12"]);
}

#[test]
fn what_slows_a_machine_is_a_warning_with_its_remedy() {
    let mut machine = Machine::healthy().file("/proc/sys/kernel/io_uring_disabled", "2\n");
    machine.answers.io_uring = Err("not permitted".to_owned());
    machine.check("io_uring", Verdict::Warning, &["not permitted", "io_uring_disabled=0"]);
    let machine = machine
        .file("/proc/sys/kernel/io_uring_disabled", "0\n")
        .file("/proc/sys/kernel/osrelease", "5.15.0-generic\n");
    machine.check("io_uring", Verdict::Warning, &["6.1", "5.15.0-generic"]);
    let mut machine = machine.file("/proc/sys/kernel/osrelease", "6.12.0\n");
    machine.check("io_uring", Verdict::Warning, &["seccomp"]);
    machine.answers.level = Level::Scalar;
    machine.check("instructions", Verdict::Warning, &["AVX2"]);
    let clock = "/sys/devices/system/clocksource/clocksource0";
    let machine = machine
        .file(&format!("{clock}/current_clocksource"), "hpet\n")
        .file(&format!("{clock}/available_clocksource"), "tsc hpet acpi_pm\n")
        .file("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n")
        .file("/sys/fs/cgroup/cpu.max", "150000 100000\n")
        .file("/sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n")
        .limits("unlimited", "256");
    machine.check("clock", Verdict::Warning, &["hpet", "echo tsc >"]);
    machine.check("huge pages", Verdict::Warning, &["never", "echo madvise >"]);
    machine.check("processor quota", Verdict::Warning, &["1.50 processors", "100 ms"]);
    machine.check("governor", Verdict::Note, &["powersave", "performance"]);
    machine.check("open files", Verdict::Note, &["256", "some 192 workers", "ulimit -n 2048"]);
    assert!(machine.diagnose(None).fit, "slow is not unfit");
}

#[test]
fn a_machine_without_memory_or_files_is_unfit() {
    let meminfo = "MemTotal:       16777216 kB\nMemAvailable:   65536 kB\n";
    let machine = Machine::healthy().file("/proc/meminfo", meminfo);
    machine.check("memory", Verdict::Unfit, &["64 MiB of 16 GiB", "at least 128 MiB"]);
    assert!(!machine.diagnose(None).fit);
    let machine = Machine::healthy().file("/sys/fs/cgroup/memory.max", "67108864\n");
    machine.check("memory", Verdict::Unfit, &["limited to 64 MiB"]);
    let machine = Machine::healthy().limits("unlimited", "32");
    machine.check("open files", Verdict::Unfit, &["32", "64"]);
}

#[test]
fn an_empty_machine_is_told_of_without_a_panic() {
    let machine = Machine::healthy();
    let empty = tempfile::tempdir().expect("a folder");
    let tree = Tree::new(empty.path());
    let told = diagnose(&tree, &machine.answers, &fabric::read(&tree), Vec::new(), None);
    assert!(told.fit, "what is not known is not held against it: {told:#?}");
}

#[test]
fn what_a_port_has_against_loss_is_told() {
    let name = "mlx5_0/1 lossless";
    let mut machine = Machine::roce();
    let told =
        |machine: &Machine| findings(&machine.diagnose(None)).iter().any(|one| one.name == name);
    assert!(!told(&machine), "nothing is known");
    let pfc =
        |on: &str| format!("pfc-cap 8 macsec-bypass off delay 0\nprio-pfc 0:off 3:{on} 7:off\n");
    machine.answers.pfc = [("ens1".to_owned(), pfc("on"))].into();
    machine.check(name, Verdict::Ok, &["PFC on 3"]);
    machine.answers.pfc = [("ens1".to_owned(), pfc("off"))].into();
    machine.check(name, Verdict::Note, &["PFC on no priority", "dcb pfc set dev ens1"]);
    let machine = machine
        .file("/sys/class/net/ens1/qos/trust", "dscp\n")
        .file("/sys/class/net/ens1/ecn/roce_np/enable/3", "1\n")
        .file("/sys/class/net/ens1/ecn/roce_rp/enable/3", "1\n")
        .file("/sys/class/net/ens1/ecn/roce_np/enable/4", "1\n")
        .file("/sys/class/net/ens1/ecn/roce_rp/enable/4", "0\n");
    let words = ["PFC on no priority; ECN on 3; priority by dscp"];
    machine.check(name, Verdict::Ok, &words);
    let mut machine = Machine::software();
    machine.answers.pfc = [("rdma0".to_owned(), pfc("off"))].into();
    assert_eq!(ills(&machine), ["rxe0"], "the kernel's own packets are not judged by it");
}

/// What the doctor says of a NIC's counters that were `before` and are `after` a second later.
fn counted(before: &str, after: &str) -> Vec<Finding> {
    let machine = Machine::roce();
    let devices = fabric::read(&machine.tree());
    let port = &devices[0].ports[0];
    let [before, after] =
        [before, after].map(|text| Counted::read(&machine.tree(), port, Some(text)));
    counters::judge(port, &before, &after, Duration::from_secs(1))
}

#[test]
fn a_storm_of_pauses_names_port_and_priority() {
    let before = "NIC statistics:\n     rx_prio3_pause: 1000\n     rx_prio3_pause_duration: 5\n";
    for (after, said) in [
        ("     rx_prio3_pause: 1301\n", "301 a second"),
        ("     rx_prio3_pause: 1001\n rx_prio3_pause_duration: 200005\n", "held 20 % of the time"),
    ] {
        let [finding] = &counted(before, after)[..] else { panic!("one finding") };
        assert_eq!(
            (finding.name.as_str(), finding.verdict),
            ("mlx5_0/1 priority 3", Verdict::Warning)
        );
        assert!(finding.value.contains(said), "{finding:?}");
        let reason = finding.reason.as_deref().unwrap_or_default();
        assert!(reason.contains("port mlx5_0/1") && reason.contains("priority 3"), "{reason}");
        let remedy = finding.remedy.as_deref().unwrap_or_default();
        assert!(remedy.contains("tx_prio3_pause"), "{remedy}");
    }
    let [calm] = &counted(before, "     rx_prio3_pause: 1010\n")[..] else { panic!("one finding") };
    assert_eq!(calm.verdict, Verdict::Ok, "some pauses are what flow control is for");
}

#[test]
fn only_a_counter_that_grows_is_a_warning() {
    let [old] = &counted("out_of_sequence: 7", "out_of_sequence: 7")[..] else { panic!("one") };
    assert_eq!((old.verdict, old.value.as_str()), (Verdict::Ok, "out_of_sequence 7"));
    let [new] = &counted("out_of_sequence: 7", "out_of_sequence: 9")[..] else { panic!("one") };
    assert_eq!((new.verdict, new.value.as_str()), (Verdict::Warning, "out_of_sequence 9 (+2 now)"));
    let [drops] = &counted("", "rx_prio5_discards: 3")[..] else { panic!("one") };
    assert_eq!(
        (drops.name.as_str(), drops.verdict),
        ("mlx5_0/1 priority 5 drops", Verdict::Warning)
    );
    let [none] = &counted("rx_packets: 1", "rx_packets: 9")[..] else { panic!("one") };
    assert_eq!((none.verdict, none.value.as_str()), (Verdict::Ok, "no loss, no pause"));
}

#[test]
fn counters_of_the_port_itself_are_read_too() {
    let file = "/sys/class/infiniband/mlx5_0/ports/1/hw_counters/out_of_buffer";
    let machine = Machine::roce().file(file, "12\n");
    let port = &fabric::read(&machine.tree())[0].ports[0];
    let counted = Counted::read(&machine.tree(), port, None);
    let told = counters::judge(port, &counted, &counted, Duration::from_secs(1));
    assert_eq!(
        (told[0].name.as_str(), told[0].value.as_str()),
        ("mlx5_0/1 not received", "out_of_buffer 12")
    );
}

#[test]
fn the_page_is_aligned_and_no_wider_than_a_hundred_columns() {
    let advice = |words: &str| super::finding::because(words).mend("mend it");
    let sections = vec![Section {
        name: "machine",
        findings: vec![
            Finding::ok("kernel", "6.12.0"),
            Finding::ok("io_uring", "not usable").warning(advice(&"word ".repeat(20))),
        ],
    }];
    let diagnosis = Diagnosis { gradwire: "1.2.3", commit: "abc", fit: true, sections };
    let page = text::render(&diagnosis);
    let expected = "\
gradwire 1.2.3, commit abc

machine
  ok     kernel    6.12.0
  WARN   io_uring  not usable
                   why:  word word word word word word word word word word word word word word word
                         word word word word word \n                   mend: mend it

fit; 1 warning, 0 notes";
    assert_eq!(page, expected);
    let widest = text::render(&Machine::roce().status("0-1", "0").limits("9", "9").diagnose(None));
    assert!(widest.lines().all(|line| line.chars().count() <= 100), "{widest}");
}
