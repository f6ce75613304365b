//! From nodes to instructions: the rules of each keyword.

use super::flags::{Flags, Kind};
use super::healthcheck;
use super::heredoc::{self, Heredoc};
use super::instruction::{
    Add, Arg, ArgItem, CommandLine, Copy, Device, Expose, Instruction, Network, Onbuild, Pairs,
    Run, Security, Source, Transfer, Volume,
};
use super::mount::{MountField, MountSpec, comma_separated, parse_bool};
use super::node::{Args, Node, split_word};
use super::span::{Fault, Located};
use super::suggest;
use super::words::Word;

const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

const COPY_FLAGS: &[(&str, Kind)] = &[
    ("chown", Kind::Text),
    ("from", Kind::Text),
    ("chmod", Kind::Text),
    ("link", Kind::Switch),
    ("exclude", Kind::List),
    ("parents", Kind::Switch),
];

const ADD_FLAGS: &[(&str, Kind)] = &[
    ("chown", Kind::Text),
    ("chmod", Kind::Text),
    ("link", Kind::Switch),
    ("keep-git-dir", Kind::Switch),
    ("checksum", Kind::Text),
    ("unpack", Kind::Switch),
    ("exclude", Kind::List),
];

const RUN_FLAGS: &[(&str, Kind)] = &[
    ("mount", Kind::List),
    ("network", Kind::Text),
    ("security", Kind::Text),
    ("device", Kind::List),
];

/// Checks a node and makes it an instruction.
pub(super) fn instruction(node: &Node) -> Result<Instruction, Fault> {
    let keyword = node.keyword.text.to_uppercase();
    Ok(match keyword.as_str() {
        "ADD" => Instruction::Add(add(node)?),
        "ARG" => Instruction::Arg(arg(node)?),
        "CMD" => Instruction::Cmd(unflagged_command(node)?),
        "COPY" => Instruction::Copy(copy(node)?),
        "ENTRYPOINT" => Instruction::Entrypoint(unflagged_command(node)?),
        "ENV" => Instruction::Env(pairs(node)?),
        "EXPOSE" => Instruction::Expose(expose(node)?),
        "HEALTHCHECK" => Instruction::Healthcheck(healthcheck::check(node)?),
        "LABEL" => Instruction::Label(pairs(node)?),
        "MAINTAINER" => Instruction::Maintainer(only_word(node)?.text),
        "ONBUILD" => Instruction::Onbuild(onbuild(node)?),
        "RUN" => Instruction::Run(run(node)?),
        "SHELL" => Instruction::Shell(shell(node)?),
        // The reference does not look at the flags of STOPSIGNAL and ARG.
        "STOPSIGNAL" => Instruction::StopSignal(one(node)?),
        "USER" => Instruction::User(only_word(node)?),
        "VOLUME" => Instruction::Volume(volume(node)?),
        "WORKDIR" => Instruction::Workdir(only_word(node)?),
        "FROM" => return Err(Fault::new(node.span, "FROM cannot be a trigger".to_owned())),
        _ => return Err(unknown(node)),
    })
}

/// Whether it begins with a keyword that there is.
pub(super) fn is_keyword(node: &Node) -> bool {
    KEYWORDS.contains(&node.keyword.text.to_uppercase().as_str())
}

fn unknown(node: &Node) -> Fault {
    let typed = &node.keyword.text;
    let fault = Fault::new(node.keyword.span, format!("unknown instruction: {typed}"));
    fault.with_hint(suggest::nearest(typed, KEYWORDS))
}

/// The arguments as words.
pub(super) fn words(node: &Node) -> (&[Word], bool) {
    match &node.args {
        Args::Words { words, json } => (words, *json),
        Args::Pairs(_) | Args::Nested(_) => (&[], false),
    }
}

fn fault(node: &Node, message: &str) -> Fault {
    Fault::new(node.span, format!("{} {message}", node.keyword.text.to_uppercase()))
}

fn at_least_one(node: &Node) -> Result<&[Word], Fault> {
    match words(node).0 {
        [] => Err(fault(node, "requires at least one argument")),
        words => Ok(words),
    }
}

fn one(node: &Node) -> Result<Word, Fault> {
    match words(node).0 {
        [word] => Ok(word.clone()),
        _ => Err(fault(node, "requires exactly one argument")),
    }
}

fn only_word(node: &Node) -> Result<Word, Fault> {
    Flags::check(node, &[])?;
    one(node)
}

fn arg(node: &Node) -> Result<Arg, Fault> {
    let items = at_least_one(node)?.iter().map(|word| match split_word(word, '=') {
        Some((name, _)) if name.text.is_empty() => Err(fault(node, "names can not be blank")),
        Some((name, value)) => Ok(ArgItem { name, value: Some(value) }),
        None => Ok(ArgItem { name: word.clone(), value: None }),
    });
    Ok(Arg { items: items.collect::<Result<_, _>>()? })
}

fn pairs(node: &Node) -> Result<Pairs, Fault> {
    Flags::check(node, &[])?;
    match &node.args {
        Args::Pairs(pairs) if pairs.items.is_empty() => {
            Err(fault(node, "requires at least one argument"))
        }
        Args::Pairs(pairs) if pairs.items.iter().any(|pair| pair.key.text.is_empty()) => {
            Err(fault(node, "names can not be blank"))
        }
        Args::Pairs(pairs) => Ok(pairs.clone()),
        Args::Words { .. } | Args::Nested(_) => Err(fault(node, "requires at least one argument")),
    }
}

/// A command: the words of an array, or one text.
pub(super) fn command(words: &[Word], json: bool) -> CommandLine {
    let mut texts = words.iter().map(|word| word.text.clone());
    if json {
        return CommandLine::Exec(texts.collect());
    }
    CommandLine::Shell(texts.next().unwrap_or_default())
}

fn unflagged_command(node: &Node) -> Result<CommandLine, Fault> {
    Flags::check(node, &[])?;
    let (words, json) = words(node);
    Ok(command(words, json))
}

fn shell(node: &Node) -> Result<Vec<String>, Fault> {
    Flags::check(node, &[])?;
    at_least_one(node)?;
    match unflagged_command(node)? {
        CommandLine::Exec(argv) => Ok(argv),
        CommandLine::Shell(_) => {
            let hint = Some(r#"for instance SHELL ["/bin/sh", "-c"]"#.to_owned());
            Err(fault(node, "requires the arguments to be in JSON form").with_hint(hint))
        }
    }
}

fn expose(node: &Node) -> Result<Expose, Fault> {
    let ports = at_least_one(node)?.to_vec();
    Flags::check(node, &[])?;
    Ok(Expose { ports })
}

fn volume(node: &Node) -> Result<Volume, Fault> {
    at_least_one(node)?;
    Flags::check(node, &[])?;
    let (words, json) = words(node);
    let paths = words.iter().map(|word| match word.text.trim() {
        "" => Err(fault(node, "path can not be an empty string")),
        path => Ok(Word { text: path.to_owned(), span: word.span }),
    });
    Ok(Volume { paths: paths.collect::<Result<_, _>>()?, json })
}

fn run(node: &Node) -> Result<Run, Fault> {
    let flags = Flags::check(node, RUN_FLAGS)?;
    let (words, json) = words(node);
    Ok(Run {
        command: command(words, json),
        heredocs: node.heredocs.clone(),
        mounts: flags.list("mount").into_iter().map(mount).collect::<Result<_, _>>()?,
        network: network(&flags)?,
        security: security(&flags)?,
        devices: flags.list("device").iter().map(device).collect::<Result<_, _>>()?,
    })
}

/// The reference takes an empty value as wrong here, not as none.
fn mode<T: Default>(
    flags: &Flags,
    flag: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T, Fault> {
    let Some(word) = flags.list(flag).pop() else {
        return Ok(T::default());
    };
    let wrong = || Fault::new(word.span, format!("invalid value `{}` for --{flag}", word.text));
    read(&word.text).ok_or_else(wrong)
}

fn network(flags: &Flags) -> Result<Network, Fault> {
    mode(flags, "network", |value| match value {
        "default" => Some(Network::Default),
        "none" => Some(Network::None),
        "host" => Some(Network::Host),
        _ => None,
    })
}

fn security(flags: &Flags) -> Result<Security, Fault> {
    mode(flags, "security", |value| match value {
        "sandbox" => Some(Security::Sandbox),
        "insecure" => Some(Security::Insecure),
        _ => None,
    })
}

fn fields(word: &Word) -> Result<Vec<String>, Fault> {
    let wrong = |reason| Fault::new(word.span, format!("invalid value `{}`: {reason}", word.text));
    comma_separated(&word.text).map_err(wrong)
}

fn mount(raw: Word) -> Result<MountSpec, Fault> {
    let fields = fields(&raw)?.into_iter().map(|field| match field.split_once('=') {
        None => MountField { key: field.to_lowercase(), value: None },
        Some((key, value)) => {
            let value = Word { text: value.to_owned(), span: raw.span };
            MountField { key: key.to_lowercase(), value: Some(value) }
        }
    });
    let fields: Vec<MountField> = fields.collect();
    let from = fields.iter().filter(|field| field.key == "from");
    let variable = from
        .filter_map(|field| field.value.as_ref())
        .find(|value| value.text.find('$').is_some_and(|dollar| dollar + 1 != value.text.len()));
    if variable.is_some() {
        let message = "`from` of a mount does not support variables".to_owned();
        let hint = "name a stage FROM the image and use its name".to_owned();
        return Err(Fault::new(raw.span, message).with_hint(Some(hint)));
    }
    Ok(MountSpec { raw, fields })
}

fn device(word: &Word) -> Result<Device, Fault> {
    let mut device = Device { name: String::new(), required: false };
    for field in fields(word)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        match (key.as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                let wrong =
                    || Fault::new(word.span, format!("invalid value for required: {value}"));
                device.required = parse_bool(value).ok_or_else(wrong)?;
            }
            ("name", Some(name)) if device.name.is_empty() => device.name = name.to_owned(),
            ("name", Some(_)) => {
                let message = format!("device name already set to {}", device.name);
                return Err(Fault::new(word.span, message));
            }
            _ if device.name.is_empty() => device.name = field,
            _ => {
                let hint = suggest::nearest(&key, &["name", "required"]);
                let message = format!("unexpected field `{field}` in a device");
                return Err(Fault::new(word.span, message).with_hint(hint));
            }
        }
    }
    Ok(device)
}

fn copy(node: &Node) -> Result<Copy, Fault> {
    two_or_more(node)?;
    let flags = Flags::check(node, COPY_FLAGS)?;
    let files = transfer(node, &flags)?;
    let from = flags.text("from");
    if let Some(from) = &from
        && from.expand(&(), node.escape).as_ref() != Ok(&from.text)
    {
        let message = "--from does not support variables, quotes and escapes".to_owned();
        let hint = "name a stage FROM the image and use its name".to_owned();
        return Err(Fault::new(from.span, message).with_hint(Some(hint)));
    }
    Ok(Copy { files, from, parents: flags.switch("parents").unwrap_or(false) })
}

fn add(node: &Node) -> Result<Add, Fault> {
    two_or_more(node)?;
    let flags = Flags::check(node, ADD_FLAGS)?;
    Ok(Add {
        files: transfer(node, &flags)?,
        checksum: flags.text("checksum"),
        keep_git_dir: flags.switch("keep-git-dir"),
        unpack: flags.switch("unpack"),
    })
}

fn two_or_more(node: &Node) -> Result<(), Fault> {
    if words(node).0.len() >= 2 {
        return Ok(());
    }
    Err(fault(node, "requires at least two arguments: sources and a destination"))
}

fn transfer(node: &Node, flags: &Flags) -> Result<Transfer, Fault> {
    let (words, json) = words(node);
    let (dest, sources) = words.split_last().ok_or_else(|| fault(node, "needs a destination"))?;
    if heredoc::operator(&dest.text).is_ok_and(|found| found.is_some()) {
        return Err(fault(node, "cannot accept a heredoc as a destination"));
    }
    Ok(Transfer {
        sources: sources.iter().map(|word| source(word, &node.heredocs)).collect(),
        dest: dest.clone(),
        chown: flags.text("chown"),
        chmod: flags.text("chmod"),
        link: flags.switch("link").unwrap_or(false),
        exclude: flags.list("exclude"),
        json,
    })
}

/// A here-document is found by its name; the last one of a name counts.
fn source(word: &Word, heredocs: &[Heredoc]) -> Source {
    let Ok(Some(operator)) = heredoc::operator(&word.text) else {
        return Source::Path(word.clone());
    };
    let named = heredocs.iter().rev().find(|heredoc| heredoc.name == operator.name);
    let content = named.map(|heredoc| heredoc.content.clone()).unwrap_or_default();
    Source::Heredoc { operator: word.clone(), heredoc: Heredoc { content, ..operator } }
}

fn onbuild(node: &Node) -> Result<Onbuild, Fault> {
    let Args::Nested(Some(nested)) = &node.args else {
        return Err(fault(node, "requires at least one argument"));
    };
    Flags::check(node, &[])?;
    let keyword = nested.keyword.text.to_uppercase();
    match keyword.as_str() {
        "ONBUILD" => return Err(fault(nested, "cannot be a trigger of ONBUILD")),
        "FROM" | "MAINTAINER" => {
            return Err(fault(nested, "isn't allowed as an ONBUILD trigger"));
        }
        _ => {}
    }
    let mut expression = nested.text.clone();
    for heredoc in &node.heredocs {
        expression.push('\n');
        expression.push_str(&heredoc.content);
        expression.push_str(&heredoc.name);
    }
    Ok(Onbuild { expression, trigger: trigger(node, nested) })
}

fn trigger(node: &Node, nested: &Node) -> Option<Box<Located<Instruction>>> {
    let whole = Node { heredocs: node.heredocs.clone(), ..nested.clone() };
    let instruction = instruction(&whole).ok()?;
    Some(Box::new(Located {
        node: instruction,
        span: nested.span,
        line: 1,
        end_line: 1,
        text: nested.text.clone(),
        comments: Vec::new(),
    }))
}
