//! The crates `dockerfile-parser` and `parse-dockerfile` against ours, on what they can read: the same
//! instructions in the same order, the same bases and names of stages.

use std::fmt::Write as _;

use crate::dockerfile::{Dockerfile, parse};

/// One word for each instruction, and what `FROM` names.
fn ours(file: &Dockerfile) -> String {
    let mut told = "ARG ".repeat(file.global_args.len());
    for stage in &file.stages {
        let name = stage.name.clone().unwrap_or_default();
        let _ = write!(told, "FROM[{}:{name}] ", stage.base.text);
        for instruction in &stage.instructions {
            let _ = write!(told, "{} ", instruction.node.keyword());
        }
    }
    told
}

fn of_parse_dockerfile(text: &str) -> Option<String> {
    use parse_dockerfile::Instruction as I;
    let file = parse_dockerfile::parse(text).ok()?;
    let mut told = String::new();
    for instruction in &file.instructions {
        let keyword = match instruction {
            I::Add(_) => "ADD",
            I::Arg(_) => "ARG",
            I::Cmd(_) => "CMD",
            I::Copy(_) => "COPY",
            I::Entrypoint(_) => "ENTRYPOINT",
            I::Env(_) => "ENV",
            I::Expose(_) => "EXPOSE",
            I::From(from) => {
                let name = from.as_.as_ref().map(|(_, name)| name.value.to_lowercase());
                let name = name.unwrap_or_default();
                let _ = write!(told, "FROM[{}:{name}] ", from.image.value);
                continue;
            }
            I::Healthcheck(_) => "HEALTHCHECK",
            I::Label(_) => "LABEL",
            I::Maintainer(_) => "MAINTAINER",
            I::Onbuild(_) => "ONBUILD",
            I::Run(_) => "RUN",
            I::Shell(_) => "SHELL",
            I::Stopsignal(_) => "STOPSIGNAL",
            I::User(_) => "USER",
            I::Volume(_) => "VOLUME",
            I::Workdir(_) => "WORKDIR",
            _ => "?",
        };
        let _ = write!(told, "{keyword} ");
    }
    Some(told)
}

fn of_dockerfile_parser(text: &str) -> Option<String> {
    use dockerfile_parser::Instruction as I;
    let file = dockerfile_parser::Dockerfile::parse(text).ok()?;
    let mut told = String::new();
    for instruction in &file.instructions {
        let keyword = match instruction {
            I::From(from) => {
                let name = from.alias.as_ref().map(|name| name.content.to_lowercase());
                let name = name.unwrap_or_default();
                let _ = write!(told, "FROM[{}:{name}] ", from.image.content);
                continue;
            }
            I::Arg(_) => "ARG".to_owned(),
            I::Label(_) => "LABEL".to_owned(),
            I::Run(_) => "RUN".to_owned(),
            I::Entrypoint(_) => "ENTRYPOINT".to_owned(),
            I::Cmd(_) => "CMD".to_owned(),
            I::Copy(_) => "COPY".to_owned(),
            I::Env(_) => "ENV".to_owned(),
            I::Misc(misc) => misc.instruction.content.to_uppercase(),
        };
        let _ = write!(told, "{keyword} ");
    }
    Some(told)
}

/// What they are known to read otherwise: an escaped escape at the end of a line continues it for both, and
/// one knows neither here-documents, nor the directive, nor a blank line before a comment in an instruction.
fn reads_otherwise(peer: &str, text: &str) -> bool {
    let lacks = ["<<", "escape", "\n\n  #"];
    let lower = text.to_lowercase();
    text.contains("\\\\\n")
        || peer == "dockerfile-parser" && lacks.iter().any(|lack| lower.contains(lack))
}

#[test]
fn they_read_the_same_instructions() {
    let seeds = super::fuzz::seeds();
    let mut all_wrong = String::new();
    for (peer, read) in [
        ("parse-dockerfile", of_parse_dockerfile as fn(&str) -> Option<String>),
        ("dockerfile-parser", of_dockerfile_parser),
    ] {
        let (mut same, mut wrong) = (0, String::new());
        for text in seeds.iter().filter(|text| !reads_otherwise(peer, text)) {
            let (Ok(file), Some(theirs)) = (parse("Dockerfile", text.as_bytes()), read(text))
            else {
                continue;
            };
            if ours(&file) == theirs {
                same += 1;
            } else {
                let _ = writeln!(wrong, "{text}\nours   {}\ntheirs {theirs}\n", ours(&file));
            }
        }
        if !wrong.is_empty() {
            let _ = writeln!(all_wrong, "{peer}: {same} are the same\n{wrong}");
        }
        assert!(same > 100, "{peer} could read only {same}");
    }
    assert!(all_wrong.is_empty(), "{all_wrong}");
}
