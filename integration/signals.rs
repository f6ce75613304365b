//! SIGTERM and SIGINT end a build: its processes die, nothing is pushed.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::base;
use crate::executor::{Build, PLACES, Place, Running, processes_with};
use crate::registry::{Access, Registry};

/// What is promised for the time between the signal and the end.
const PROMPT: Duration = Duration::from_secs(5);

const SIGNALS: [(Signal, i32); 2] = [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)];

/// Sends the signal and checks how the build ends.
fn interrupt(case: &str, running: Running, signal: Signal, code: i32) {
    let sent = Instant::now();
    running.signal(signal);
    let ended = running.end();
    assert!(sent.elapsed() < PROMPT, "{case}: {:?}\n{}", sent.elapsed(), ended.log);
    assert_eq!(ended.code(), code, "{case}: {}", ended.log);
    assert_eq!(ended.leftovers(), Vec::<String>::new(), "{case}: {}", ended.log);
}

/// A build that pushes to the registry, so that a tag would tell.
fn pushing(registry: &Registry, place: Place, dockerfile: &str) -> Build {
    Build::bare()
        .file("Dockerfile", dockerfile)
        .base("busybox", base::busybox())
        .place(place)
        .flags(["--insecure", "--insecure-pull", "--digest-file={out}/digest"])
        .flag(format!("--destination={}", registry.reference("app:1")))
}

#[test]
fn a_signal_in_a_step_ends_the_step_and_all_it_started() {
    let registry = Registry::start(Access::Plain);
    registry.push(&base::busybox(), base::TAG, "app:1", None);
    let old = registry.manifest("app:1");
    for place in PLACES {
        for (signal, code) in SIGNALS {
            // The seconds are the mark by which the processes are looked for.
            let mark = format!("{}{code}", std::process::id());
            let step = format!(
                "trap '' TERM INT; setsid sleep {mark} & sleep {mark} & echo begun-$((40+2)); wait; sleep {mark}"
            );
            let dockerfile = format!("FROM busybox\nRUN {step}\nRUN touch /never\n");
            let mut running = pushing(&registry, place, &dockerfile).start();
            running.until("begun-42");
            interrupt(&format!("{place:?} {signal}"), running, signal, code);
            assert_eq!(processes_with(&mark), Vec::<String>::new(), "{place:?} {signal}");
            assert_eq!(registry.manifest("app:1"), old, "{place:?} {signal}");
        }
    }
}

#[test]
fn a_signal_to_the_whole_group_ends_the_build_once() {
    let registry = Registry::start(Access::Plain);
    let dockerfile = "FROM busybox\nRUN echo begun-$((40+2)); sleep 1000\n";
    let mut running = pushing(&registry, Place::Host, dockerfile).start();
    running.until("begun-42");
    running.signal_group(Signal::SIGINT);
    let ended = running.end();
    assert_eq!(ended.code(), 130, "{}", ended.log);
    assert!(registry.manifest("app:1").is_none());
}

#[test]
fn a_signal_while_a_registry_does_not_answer() {
    for place in PLACES {
        for (signal, code) in SIGNALS {
            let silent = TcpListener::bind("127.0.0.1:0").unwrap();
            let base = format!("{}/base:1", silent.local_addr().unwrap());
            let running = Build::of(&format!("FROM {base}\nRUN true\n"))
                .place(place)
                .flag("--insecure-pull")
                .start();
            let _connection = silent.accept().unwrap();
            interrupt(&format!("pull {place:?} {signal}"), running, signal, code);
        }
    }
}
