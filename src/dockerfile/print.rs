//! A Dockerfile back to text.
//!
//! # The promise
//!
//! Parsing what is printed gives the same value, but for places and the original text of each line.

use std::fmt;

use super::heredoc::{self, Heredoc};
use super::instruction::{
    Add, Arg, CommandLine, Copy, Device, Healthcheck, Instruction, Network, Pairs, Run, Security,
    Source, Transfer, Volume,
};
use super::lines::continues;
use super::words::Word;
use super::{Directives, Dockerfile, Stage, duration};

impl fmt::Display for Dockerfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        directives(&self.directives, f)?;
        let printer = Printer { escape: self.escape() };
        for arg in &self.global_args {
            comments(&arg.comments, f)?;
            f.write_str(&printer.line("ARG", &[], &arg_words(&arg.node)))?;
        }
        self.stages.iter().try_for_each(|stage| printer.stage(stage, f))
    }
}

fn directives(directives: &Directives, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let Directives { syntax, escape, check } = directives;
    let escape = escape.map(String::from);
    for (key, value) in [("syntax", syntax), ("escape", &escape), ("check", check)] {
        value.iter().try_for_each(|value| writeln!(f, "# {key}={value}"))?;
    }
    // An empty comment, lest the next comment be read as a directive.
    f.write_str("#\n")
}

fn comments(comments: &[String], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    comments.iter().try_for_each(|comment| writeln!(f, "# {comment}"))
}

struct Printer {
    escape: char,
}

impl Printer {
    fn stage(&self, stage: &Stage, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        comments(&stage.comments, f)?;
        let platform = stage.platform.iter().map(|word| self.flag("platform", &word.text));
        let name = stage.name.iter().map(|name| format!(" AS {name}"));
        let args = std::iter::once(stage.base.text.clone()).chain(name).collect::<String>();
        f.write_str(&self.line("FROM", &platform.collect::<Vec<_>>(), &args))?;
        for located in &stage.instructions {
            comments(&located.comments, f)?;
            f.write_str(&self.instruction(&located.node))?;
        }
        Ok(())
    }

    fn instruction(&self, instruction: &Instruction) -> String {
        let plain = |args: &str| self.line(instruction.keyword(), &[], args);
        match instruction {
            Instruction::Arg(arg) => plain(&arg_words(arg)),
            Instruction::Env(pairs) | Instruction::Label(pairs) => plain(&assignments(pairs)),
            Instruction::Maintainer(name) => plain(name),
            Instruction::Run(run) => self.run(run),
            Instruction::Cmd(command) | Instruction::Entrypoint(command) => {
                plain(&command_text(command))
            }
            Instruction::Shell(argv) => plain(&json(argv)),
            Instruction::User(word)
            | Instruction::Workdir(word)
            | Instruction::StopSignal(word) => plain(&word.text),
            Instruction::Volume(Volume { paths, json }) => plain(&list(&texts(paths), *json)),
            Instruction::Expose(expose) => plain(&list(&texts(&expose.ports), false)),
            Instruction::Healthcheck(check) => self.healthcheck(check),
            Instruction::Onbuild(onbuild) => plain(&onbuild.expression),
            Instruction::Copy(copy) => self.copy(copy),
            Instruction::Add(add) => self.add(add),
        }
    }

    /// One line; a bare `--` keeps arguments from being read as flags.
    fn line(&self, keyword: &str, flags: &[String], args: &str) -> String {
        let mut words = vec![keyword];
        words.extend(flags.iter().map(String::as_str));
        words.extend(args.starts_with("--").then_some("--"));
        words.extend(Some(args).filter(|args| !args.is_empty()));
        let mut line = words.join(" ");
        if args.ends_with(char::is_whitespace) {
            // A quote that nothing closes; an escape that has nothing to escape keeps its blank from being trimmed.
            line.push(self.escape);
        }
        if continues(&line, self.escape) {
            // A blank that is trimmed, but that no continuation may have after it.
            line.push('\u{a0}');
        }
        line.push('\n');
        line
    }

    fn flag(&self, name: &str, value: &str) -> String {
        let special = |c: char| c.is_whitespace() || c == self.escape || matches!(c, '\'' | '"');
        if !value.contains(special) {
            return format!("--{name}={value}");
        }
        let quote = if value.contains('"') && !value.contains('\'') { '\'' } else { '"' };
        let mut text = format!("--{name}={quote}");
        for c in value.chars() {
            text.extend((c == quote || c == self.escape).then_some(self.escape));
            text.push(c);
        }
        text.push(quote);
        text
    }

    fn optional(&self, name: &str, value: Option<&Word>) -> Option<String> {
        value.map(|word| self.flag(name, &word.text))
    }

    fn run(&self, run: &Run) -> String {
        let mounts = run.mounts.iter().map(|mount| self.flag("mount", &mount.raw.text));
        let network = match run.network {
            Network::Default => None,
            Network::None => Some("--network=none"),
            Network::Host => Some("--network=host"),
        };
        let security = match run.security {
            Security::Sandbox => None,
            Security::Insecure => Some("--security=insecure"),
        };
        let devices = run.devices.iter().map(|device| self.flag("device", &device_text(device)));
        let modes = network.into_iter().chain(security).map(str::to_owned);
        let flags: Vec<String> = mounts.chain(modes).chain(devices).collect();
        let line = self.line("RUN", &flags, &command_text(&run.command));
        run.heredocs
            .iter()
            .fold(line, |text, heredoc| text + &body(&heredoc.name, &heredoc.content))
    }

    fn healthcheck(&self, check: &Healthcheck) -> String {
        let Healthcheck::Cmd { command, timing } = check else {
            return self.line("HEALTHCHECK", &[], "NONE");
        };
        let intervals = [
            ("interval", timing.interval),
            ("timeout", timing.timeout),
            ("start-period", timing.start_period),
            ("start-interval", timing.start_interval),
        ];
        let given = intervals.into_iter().filter(|(_, duration)| !duration.is_zero());
        let given = given.map(|(name, value)| self.flag(name, &duration::format(value)));
        let retries = Some(timing.retries).filter(|retries| *retries != 0);
        let retries = retries.map(|retries| format!("--retries={retries}"));
        let flags: Vec<String> = given.chain(retries).collect();
        self.line("HEALTHCHECK", &flags, &format!("CMD {}", command_text(command)))
    }

    fn copy(&self, copy: &Copy) -> String {
        let from = self.optional("from", copy.from.as_ref());
        let parents = copy.parents.then(|| "--parents".to_owned());
        self.transfer("COPY", from.into_iter().chain(parents).collect(), &copy.files)
    }

    fn add(&self, add: &Add) -> String {
        let checksum = self.optional("checksum", add.checksum.as_ref());
        let keep = add.keep_git_dir.map(|keep| format!("--keep-git-dir={keep}"));
        let unpack = add.unpack.map(|unpack| format!("--unpack={unpack}"));
        self.transfer("ADD", checksum.into_iter().chain(keep).chain(unpack).collect(), &add.files)
    }

    fn transfer(&self, keyword: &str, mut flags: Vec<String>, files: &Transfer) -> String {
        flags.extend(self.optional("chown", files.chown.as_ref()));
        flags.extend(self.optional("chmod", files.chmod.as_ref()));
        flags.extend(files.link.then(|| "--link".to_owned()));
        flags.extend(files.exclude.iter().map(|word| self.flag("exclude", &word.text)));
        let sources = files.sources.iter().map(|source| match source {
            Source::Path(word) | Source::Heredoc { operator: word, .. } => word.text.as_str(),
        });
        let words: Vec<&str> = sources.chain([files.dest.text.as_str()]).collect();
        let line = self.line(keyword, &flags, &list(&words, files.json));
        if files.json {
            return line;
        }
        // Every operator of the line must have its lines, also one that is no source (`<< EOF`).
        let operators = heredoc::operators(&line).unwrap_or_default();
        let content = |operator: &Heredoc| body(&operator.name, content_of(files, &operator.name));
        let bodies: String = operators.iter().map(content).collect();
        line + &bodies
    }
}

fn content_of<'a>(files: &'a Transfer, name: &str) -> &'a str {
    let mut contents = files.sources.iter().filter_map(|source| match source {
        Source::Heredoc { heredoc, .. } if heredoc.name == name => Some(heredoc.content.as_str()),
        Source::Heredoc { .. } | Source::Path(_) => None,
    });
    contents.next_back().unwrap_or_default()
}

fn body(name: &str, content: &str) -> String {
    format!("{content}{name}\n")
}

fn arg_words(arg: &Arg) -> String {
    let words = arg.items.iter().map(|item| match &item.value {
        Some(value) => format!("{}={}", item.name.text, value.text),
        None => item.name.text.clone(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn assignments(pairs: &Pairs) -> String {
    // Two blanks: the first one may be escaped by the end of the name.
    let separator = if pairs.legacy { "  " } else { "=" };
    let words = pairs.items.iter();
    let words = words.map(|pair| format!("{}{separator}{}", pair.key.text, pair.value.text));
    words.collect::<Vec<_>>().join(" ")
}

fn device_text(device: &Device) -> String {
    let name = Some(format!("name={}", device.name)).filter(|_| !device.name.is_empty());
    let required = device.required.then(|| "required".to_owned());
    let fields = name.into_iter().chain(required).map(|field| {
        let quote = field.contains(['"', ',']);
        if quote { format!("\"{}\"", field.replace('"', "\"\"")) } else { field }
    });
    fields.collect::<Vec<_>>().join(",")
}

fn command_text(command: &CommandLine) -> String {
    match command {
        CommandLine::Shell(text) => text.clone(),
        CommandLine::Exec(argv) => json(argv),
    }
}

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.text.as_str()).collect()
}

/// Words as an array or side by side. Tabs keep words that look like an array from being one.
fn list(words: &[&str], as_json: bool) -> String {
    if as_json {
        return json(words);
    }
    let blank = if words.iter().any(|word| word.starts_with('[')) { "\t" } else { " " };
    // Two of them where the first one may be escaped by the word before it.
    let count = if words.iter().any(|word| word.ends_with(['\\', '`'])) { 2 } else { 1 };
    words.join(&blank.repeat(count))
}

fn json<S: AsRef<str>>(words: &[S]) -> String {
    let words: Vec<String> =
        words.iter().map(|word| serde_json::Value::from(word.as_ref()).to_string()).collect();
    format!("[{}]", words.join(", "))
}
