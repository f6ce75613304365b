//! The lines that a build leaves in an image's history, `created_by`, as the reference writes them.
//!
//! All values are expanded. `RUN`, `COPY`, `ADD` and `WORKDIR` (that of `/` excepted) have a layer;
//! `ONBUILD` leaves no line. `CMD` and `ENTRYPOINT` are given with the shell already before a shell form.

use std::fmt::Write as _;
use std::sync::LazyLock;

use regex::Regex;

use super::duration;
use super::instruction::{CommandLine, Healthcheck};

/// The `comment` of each line.
pub const COMMENT: &str = "buildkit.dockerfile.v0";

/// Marks lines of steps that ran.
const RAN: &str = " # buildkit";

static PRINTABLE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"^[\p{L}\p{M}\p{N}\p{P}\p{S} ]$").expect("the pattern is a constant")
});

/// `RUN`: the program with its arguments, and the build arguments in force with their values (a variable
/// that `ENV` has set counts with that value). The predefined proxies are not among them unless declared.
#[must_use]
pub fn run(argv: &[String], build_args: &[(String, String)]) -> String {
    let count = Some(format!("|{}", build_args.len())).filter(|_| !build_args.is_empty());
    let values = build_args.iter().map(|(name, value)| format!("{name}={value}"));
    let words: Vec<String> = count.into_iter().chain(values).chain(argv.iter().cloned()).collect();
    format!("RUN {}{RAN}", words.join(" "))
}

/// What `COPY` and `ADD` show of themselves.
#[derive(Clone, Debug, Default)]
pub struct Transferred {
    /// `--parents`
    pub parents: bool,
    /// `--chown`
    pub chown: Option<String>,
    /// `--chmod`
    pub chmod: Option<String>,
    /// Paths as expanded, wildcards as they are.
    pub paths: Vec<String>,
    /// Names of here-documents.
    pub heredocs: Vec<String>,
    /// The destination as expanded.
    pub dest: String,
}

/// `COPY`
#[must_use]
pub fn copy(files: &Transferred) -> String {
    transfer("COPY", files)
}

/// `ADD`
#[must_use]
pub fn add(files: &Transferred) -> String {
    transfer("ADD", files)
}

fn transfer(keyword: &str, files: &Transferred) -> String {
    let parents = files.parents.then(|| "--parents".to_owned());
    let chown = files.chown.as_ref().map(|owner| format!("--chown={owner}"));
    let chmod = files.chmod.as_ref().map(|mode| format!("--chmod={mode}"));
    let mut words = vec![keyword.to_owned()];
    words.extend(parents.into_iter().chain(chown).chain(chmod));
    words.extend(files.paths.iter().cloned());
    words.extend(files.heredocs.iter().map(|name| format!("<<{name}")));
    words.push(files.dest.clone());
    words.join(" ") + RAN
}

/// `ENV`
#[must_use]
pub fn env(pairs: &[(String, String)]) -> String {
    assignments("ENV", pairs)
}

/// `LABEL`
#[must_use]
pub fn label(pairs: &[(String, String)]) -> String {
    assignments("LABEL", pairs)
}

fn assignments(keyword: &str, pairs: &[(String, String)]) -> String {
    pairs.iter().fold(keyword.to_owned(), |line, (key, value)| format!("{line} {key}={value}"))
}

/// `ARG`: names, with the value where there is one.
#[must_use]
pub fn arg(items: &[(String, Option<String>)]) -> String {
    items.iter().fold("ARG".to_owned(), |line, (name, value)| match value {
        Some(value) => format!("{line} {name}={value}"),
        None => format!("{line} {name}"),
    })
}

/// `CMD`
#[must_use]
pub fn cmd(argv: &[String]) -> String {
    format!("CMD {}", quoted(argv))
}

/// `ENTRYPOINT`
#[must_use]
pub fn entrypoint(argv: &[String]) -> String {
    format!("ENTRYPOINT {}", quoted(argv))
}

/// `SHELL`
#[must_use]
pub fn shell(argv: &[String]) -> String {
    format!("SHELL {}", list(argv))
}

/// `VOLUME`
#[must_use]
pub fn volume(paths: &[String]) -> String {
    format!("VOLUME {}", list(paths))
}

/// `EXPOSE`: ports as [`super::ports::exposed`] gives them.
#[must_use]
pub fn expose(ports: &[String]) -> String {
    format!("EXPOSE {}", list(ports))
}

/// `WORKDIR`: the absolute path that it led to.
#[must_use]
pub fn workdir(path: &str) -> String {
    format!("WORKDIR {path}")
}

/// `USER`
#[must_use]
pub fn user(user: &str) -> String {
    format!("USER {user}")
}

/// `STOPSIGNAL`
#[must_use]
pub fn stop_signal(signal: &str) -> String {
    format!("STOPSIGNAL {signal}")
}

/// `MAINTAINER`
#[must_use]
pub fn maintainer(name: &str) -> String {
    format!("MAINTAINER {name}")
}

/// `HEALTHCHECK`
#[must_use]
pub fn healthcheck(check: &Healthcheck) -> String {
    let (test, timing) = match check {
        Healthcheck::None => (vec!["NONE".to_owned()], super::HealthTiming::default()),
        Healthcheck::Cmd { command, timing } => (health_test(command), *timing),
    };
    format!(
        "HEALTHCHECK {{Test:{} Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        list(&test),
        duration::format(timing.interval),
        duration::format(timing.timeout),
        duration::format(timing.start_period),
        duration::format(timing.start_interval),
        timing.retries,
    )
}

/// The `Test` of the image config.
#[must_use]
pub fn health_test(command: &CommandLine) -> Vec<String> {
    let (kind, words) = match command {
        CommandLine::Shell(text) => ("CMD-SHELL", std::slice::from_ref(text)),
        CommandLine::Exec(argv) => ("CMD", argv.as_slice()),
    };
    std::iter::once(kind.to_owned()).chain(words.iter().cloned()).collect()
}

/// A list as Go's `%v` shows it.
fn list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// A list as Go's `%q` shows it.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
    list(&words)
}

fn quote(word: &str) -> String {
    let mut quoted = String::from('"');
    for c in word.chars() {
        quote_char(c, &mut quoted);
    }
    quoted.push('"');
    quoted
}

fn quote_char(c: char, out: &mut String) {
    let short = match c {
        '"' | '\\' => Some(c),
        '\u{7}' => Some('a'),
        '\u{8}' => Some('b'),
        '\u{c}' => Some('f'),
        '\n' => Some('n'),
        '\r' => Some('r'),
        '\t' => Some('t'),
        '\u{b}' => Some('v'),
        _ => None,
    };
    let code = u32::from(c);
    let written = match (short, code) {
        (Some(short), _) => write!(out, "\\{short}"),
        (None, _) if PRINTABLE.is_match(c.encode_utf8(&mut [0; 4])) => write!(out, "{c}"),
        (None, ..0x80) => write!(out, "\\x{code:02x}"),
        (None, ..0x1_0000) => write!(out, "\\u{code:04x}"),
        (None, _) => write!(out, "\\U{code:08x}"),
    };
    written.expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dockerfile::HealthTiming;

    fn words(text: &str) -> Vec<String> {
        text.split('|').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    fn assigned(text: &str) -> Vec<(String, String)> {
        let pairs = text.split('|').filter_map(|pair| pair.split_once('='));
        pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn steps_that_run() {
        let sh = words("/bin/sh|-c|echo hi");
        let args = assigned("A=1|B=x y");
        let files = Transferred {
            parents: true,
            chown: Some("1:2".to_owned()),
            chmod: Some("u=rw".to_owned()),
            paths: words("a|b*"),
            heredocs: words("EOF"),
            dest: "/d/".to_owned(),
        };
        for (got, want) in [
            (run(&sh, &[]), "RUN /bin/sh -c echo hi # buildkit"),
            (run(&sh, &args), "RUN |2 A=1 B=x y /bin/sh -c echo hi # buildkit"),
            (run(&words("ls|-l"), &[]), "RUN ls -l # buildkit"),
            (copy(&files), "COPY --parents --chown=1:2 --chmod=u=rw a b* <<EOF /d/ # buildkit"),
            (
                add(&Transferred {
                    paths: words("x"),
                    dest: ".".to_owned(),
                    ..Transferred::default()
                }),
                "ADD x . # buildkit",
            ),
        ] {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn settings() {
        let optional = [("A".to_owned(), None), ("B".to_owned(), Some(String::new()))];
        for (got, want) in [
            (env(&assigned("a=b|c=d e")), "ENV a=b c=d e"),
            (label(&assigned("k=")), "LABEL k="),
            (arg(&optional), "ARG A B="),
            (
                cmd(&words("/bin/sh|-c|say \"é\"\t\\\u{1}")),
                r#"CMD ["/bin/sh" "-c" "say \"é\"\t\\\x01"]"#,
            ),
            (entrypoint(&[]), "ENTRYPOINT []"),
            (shell(&words("/bin/bash|-c")), "SHELL [/bin/bash -c]"),
            (volume(&words("/a|/b")), "VOLUME [/a /b]"),
            (expose(&words("80/tcp|90/udp")), "EXPOSE [80/tcp 90/udp]"),
            (workdir("/x"), "WORKDIR /x"),
            (user("me:us"), "USER me:us"),
            (stop_signal("SIGINT"), "STOPSIGNAL SIGINT"),
            (maintainer("A <a@b>"), "MAINTAINER A <a@b>"),
        ] {
            assert_eq!(got, want);
        }
    }

    #[test]
    fn health() {
        let timing = HealthTiming {
            interval: Duration::from_secs(90),
            timeout: Duration::from_millis(1500),
            start_period: Duration::from_secs(3600),
            start_interval: Duration::from_millis(250),
            retries: 3,
        };
        let command = CommandLine::Shell("curl -f x".to_owned());
        let check = Healthcheck::Cmd { command, timing };
        let want = "HEALTHCHECK {Test:[CMD-SHELL curl -f x] Interval:1m30s Timeout:1.5s \
                    StartPeriod:1h0m0s StartInterval:250ms Retries:3}";
        assert_eq!(healthcheck(&check), want);
        let none = "HEALTHCHECK {Test:[NONE] Interval:0s Timeout:0s StartPeriod:0s \
                    StartInterval:0s Retries:0}";
        assert_eq!(healthcheck(&Healthcheck::None), none);
    }
}
