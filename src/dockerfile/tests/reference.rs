//! The verdicts of the reference implementation on tricky files, against ours.

use serde_json::{Value, json};

use crate::dockerfile::lines::Lines;
use crate::dockerfile::node::{Args, Node};
use crate::dockerfile::{Dockerfile, parse};

/// One line of `testdata/dockerfiles.jsonl`: a file and what the reference says of it.
fn rows() -> Vec<Value> {
    let rows = include_str!("../../../testdata/dockerfiles.jsonl");
    rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect()
}

fn text(row: &Value) -> Vec<u8> {
    let file = row["file"].as_str().unwrap();
    std::fs::read(format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn nodes(text: &str) -> Value {
    let mut lines = Lines::new(text);
    let mut nodes = Vec::new();
    while let Some(line) = lines.next().unwrap() {
        let node = Node::read(&line, &mut lines).unwrap();
        nodes.push(describe(&node, line.line, lines.line));
    }
    Value::Array(nodes)
}

fn describe(node: &Node, start: usize, end: usize) -> Value {
    let (args, json) = args(node);
    let mut flags: Vec<&str> = node.flags.iter().map(|flag| flag.text.as_str()).collect();
    if let Args::Nested(Some(nested)) = &node.args {
        flags.extend(nested.flags.iter().map(|flag| flag.text.as_str()));
    }
    let heredocs = node.heredocs.iter().map(|heredoc| {
        let (name, content) = (&heredoc.name, &heredoc.content);
        format!("{name}|{}|{}|{content}", heredoc.expand, heredoc.dash)
    });
    let heredocs: Vec<String> = heredocs.collect();
    let heredocs = if heredocs.is_empty() { Value::Null } else { json!(heredocs) };
    json!({
        "cmd": node.keyword.text, "flags": flags, "args": args, "json": json,
        "start": start, "end": end, "heredocs": heredocs, "orig": node.text,
    })
}

fn args(node: &Node) -> (Vec<String>, bool) {
    match &node.args {
        Args::Words { words, json } => (words.iter().map(|w| w.text.clone()).collect(), *json),
        Args::Pairs(pairs) => {
            let separator = if pairs.legacy { "" } else { "=" };
            let items = pairs.items.iter();
            let items = items.map(|p| [p.key.text.as_str(), p.value.text.as_str(), separator]);
            (items.flatten().map(str::to_owned).collect(), false)
        }
        Args::Nested(None) => (Vec::new(), false),
        Args::Nested(Some(nested)) => {
            let (inner, json) = args(nested);
            let keyword = format!("<child>{}", nested.keyword.text);
            (std::iter::once(keyword).chain(inner).collect(), json)
        }
    }
}

/// The reference's own text keeps blanks at the end, and its empty lists may be null.
fn trimmed(mut nodes: Value) -> Value {
    for node in nodes.as_array_mut().unwrap() {
        node["orig"] = json!(node["orig"].as_str().unwrap().trim());
        for list in ["args", "flags"] {
            if node[list].is_null() {
                node[list] = json!([]);
            }
        }
    }
    nodes
}

#[test]
fn verdicts() {
    for row in rows() {
        let errors = [row["parse_err"].as_str().unwrap(), row["inst_err"].as_str().unwrap()];
        let refused = errors.iter().any(|error| !error.is_empty());
        let ours = parse("Dockerfile", &text(&row));
        assert_eq!(ours.is_err(), refused, "{}: {ours:?} against {errors:?}", row["file"]);
    }
}

#[test]
fn nodes_and_escapes() {
    let unknown = |row: &Value| row["inst_err"].as_str().unwrap().contains("unknown instruction");
    for row in rows().into_iter().filter(|row| row["parse_err"] == "" && !unknown(row)) {
        let text = text(&row);
        let text = String::from_utf8_lossy(&text);
        let ours = nodes(&text);
        assert_eq!(ours, trimmed(row["nodes"].clone()), "{}", row["file"]);
        if let Ok(file) = parse("Dockerfile", text.as_bytes()) {
            assert_eq!(file.escape().to_string(), row["escape"], "{}", row["file"]);
        }
    }
}

/// Every place is one in the text, and a word that was not put together stands there as it is.
#[test]
fn places() {
    for row in rows() {
        let Ok(Dockerfile { stages, source, .. }) = parse("Dockerfile", &text(&row)) else {
            continue;
        };
        for stage in stages {
            assert_eq!(source.text[stage.base.span.range()], stage.base.text, "{}", row["file"]);
            for instruction in stage.instructions {
                let first = source.line_of(instruction.span.start);
                assert_eq!(first, instruction.line, "{}: {}", row["file"], instruction.text);
            }
        }
    }
}
