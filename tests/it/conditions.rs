//! Storage that does not refuse a name that is taken: the first use of an OUTPUT finds out and stops with status 2.

use std::path::Path;
use std::process::{Command, Output};

use crate::common::{Workplace, nightcap};
use crate::proxy::{Fault, Proxy};
use crate::readers::python;
use crate::seaweed::{Seaweed, with_s3};

/// Runs a command whose hard links the kernel (a seccomp filter) answers with an error number: 1, EPERM, is what Linux answers on
/// FAT and many FUSE mounts; 0 reports success without making one.
const WITHOUT_LINKS: &str = r"
import ctypes, os, platform, struct, sys
link, linkat = {'x86_64': (86, 265), 'aarch64': (37, 37)}[platform.machine()]
steps = [(0x20, 0, 0, 0), (0x15, 2, 0, link), (0x15, 1, 0, linkat), (6, 0, 0, 0x7FFF0000), (6, 0, 0, 0x50000 | int(sys.argv[1]))]
code = ctypes.create_string_buffer(b''.join(struct.pack('HBBI', *step) for step in steps))
class Program(ctypes.Structure):
    _fields_ = [('steps', ctypes.c_ushort), ('code', ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
program = Program(len(steps), ctypes.addressof(code))
assert libc.prctl(22, 2, ctypes.byref(program), 0, 0) == 0, ctypes.get_errno()
os.execv(sys.argv[2], sys.argv[2:])
";

fn without_links(python: &str, answer: u8, command: &Command) -> Output {
    let mut filtered = Command::new(python);
    filtered.args(["-c", WITHOUT_LINKS, &answer.to_string()]).arg(command.get_program()).args(command.get_args());
    filtered.output().unwrap()
}

fn refused(output: &Output, expected: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("cannot put an object only if its name is free"), "{said}");
    assert!(said.contains(expected) && said.contains("\nhint: OUTPUT needs"), "{said}");
}

/// Every file below `folder`.
fn files(folder: &Path) -> String {
    String::from_utf8(Command::new("find").arg(folder).args(["-type", "f"]).output().unwrap().stdout).unwrap()
}

#[test]
fn a_folder_whose_file_system_has_no_hard_links_is_refused() {
    let Some(python) = python() else { return };
    let workplace = Workplace::with_images(4, 2);
    let run = |arguments: &[&str]| workplace.command("run", arguments);
    for (answer, expected) in [(1, "Operation not permitted"), (95, "not supported"), (0, "was not refused")] {
        for arguments in [&["--run-id", "night"][..], &["--run-id", "night", "--shard", "0/2"], &[]] {
            refused(&without_links(&python, answer, &run(arguments)), expected);
            assert_eq!(files(&workplace.path("out")), "", "nothing is left behind");
        }
    }
    // What only looks is not refused.
    let planned = without_links(&python, 1, &workplace.command("plan", &[]));
    assert!(planned.status.success(), "{}", String::from_utf8_lossy(&planned.stderr));

    // An OUTPUT that was moved to such a folder.
    workplace.run_ok(&["--run-id", "night"]);
    let before = files(&workplace.path("out"));
    refused(&without_links(&python, 1, &run(&["--full"])), "Operation not permitted");
    assert_eq!(files(&workplace.path("out")), before);
    let status = nightcap().arg("status").arg(workplace.path("out")).arg("--check").output().unwrap();
    assert_eq!(status.status.code(), Some(0), "{}", String::from_utf8_lossy(&status.stdout));
}

#[test]
fn a_server_that_ignores_the_condition_is_refused() {
    let (server, workplace) = (Seaweed::start_open(), Workplace::with_images(4, 2));
    let run = |endpoint: &str, name: &str, arguments: &[&str]| {
        let mut command = workplace.command("run", arguments);
        command.args(["--set", &format!("output.path=s3://night/conditions/{name}")]);
        // The signature would cover the header that the proxy takes away.
        command.args(["--set", "storage.anonymous=true"]);
        with_s3(&mut command, endpoint).output().unwrap()
    };
    let proxy = Proxy::before(server.port());
    proxy.spoil("PUT", "", Fault::WithoutHeader("if-none-match"), usize::MAX);
    for arguments in [&["--run-id", "night"][..], &["--run-id", "night", "--shard", "0/2"], &[]] {
        refused(&run(&proxy.endpoint(), "ignored", arguments), "a second put of one name was not refused");
        assert!(server.objects("conditions/ignored").is_empty(), "nothing is left behind");
    }
    // The same OUTPUT on storage that has it, and then behind the proxy again.
    assert_eq!(run(&server.endpoint(), "ignored", &["--run-id", "night"]).status.code(), Some(0));
    let names = || server.objects("conditions/ignored").into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    let before = names();
    refused(&run(&proxy.endpoint(), "ignored", &["--full"]), "a second put of one name was not refused");
    assert_eq!(names(), before);

    let proxy = Proxy::before(server.port());
    proxy.spoil("PUT", "", Fault::Status(501, "NotImplemented"), usize::MAX);
    refused(&run(&proxy.endpoint(), "unknown", &[]), "status 501 NotImplemented");
    server.kill();
}

#[test]
fn first_users_that_start_together_and_lost_answers_are_no_reason_to_refuse() {
    let (server, workplace) = (Seaweed::shared(), Workplace::with_images(6, 2));
    let proxy = Proxy::before(server.port());
    // The answers to the first put, and to the one that has to be refused.
    proxy.spoil("PUT", "format.json", Fault::LostAnswer, 2);
    let shard = |number: u32| {
        let mut command = workplace.command("run", &["--run-id", "night", "--shard", &format!("{number}/3")]);
        command.args(["--set", "output.path=s3://night/conditions/together"]);
        with_s3(&mut command, &proxy.endpoint()).spawn().unwrap()
    };
    for mut child in [0, 1, 2].map(shard) {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(proxy.left(), 0, "both answers were lost");
    let names: Vec<String> =
        server.objects("conditions/together/_nightcap").into_iter().map(|(name, _)| name).collect();
    let others: Vec<_> = names.iter().filter(|name| !name.starts_with("runs/") && *name != "clock").collect();
    assert_eq!(others, ["format.json", "schema.json", "seq/000000000001.json"]);
    // The record is there with the very bytes that are put again, and the answer that refuses them is lost.
    proxy.spoil("PUT", "format.json", Fault::LostAnswer, 1);
    let mut again = workplace
        .command("run", &["--run-id", "again", "--full", "--set", "output.path=s3://night/conditions/together"]);
    assert!(with_s3(&mut again, &proxy.endpoint()).status().unwrap().success());
    assert_eq!(proxy.left(), 0);
}
