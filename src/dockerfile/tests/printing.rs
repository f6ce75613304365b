//! The law: parsing what is printed gives the same value, but for places and original text.

use std::sync::LazyLock;

use proptest::prelude::*;
use regex::Regex;
use serde_json::Value;

use crate::dockerfile::{Dockerfile, parse};

/// Pieces that meet each other in unkind ways.
const PIECES: &[&str] = &[
    "\n",
    "\n",
    "\n",
    " ",
    " ",
    "\t",
    "\\\n",
    "\\",
    "`",
    "\"",
    "'",
    "$",
    "${x:-",
    "}",
    "=",
    "a",
    "b c",
    "k=v",
    "[",
    "]",
    "[\"a\", \"b c\"]",
    "[\"\\n\"]",
    ",",
    "<<EOF",
    "<<-'E F'",
    "EOF\n",
    "\nEOF\n",
    "\n\tE F\n",
    "#",
    "# c\n",
    "# escape=`\n",
    "--",
    "--link",
    "--from=x",
    "--chown=\"a b\"",
    "--exclude=*",
    "--mount=type=cache,target=/c",
    "--network=none",
    "--device=d,required",
    "--keep-git-dir=false",
    "--interval=1m30s",
    "--retries=3",
    "é",
    "\u{a0}",
    "\r",
    "\nRUN ",
    "\nCOPY ",
    "\nADD ",
    "\nENV ",
    "\nLABEL ",
    "\nARG ",
    "\nFROM x AS y",
    "\nONBUILD ",
    "RUN ",
    "COPY ",
    "\nCMD ",
    "\nENTRYPOINT ",
    "\nSHELL [\"s\"]",
    "\nVOLUME ",
    "\nEXPOSE ",
    "\nUSER ",
    "\nWORKDIR ",
    "\nSTOPSIGNAL ",
    "\nHEALTHCHECK ",
    "CMD ",
    "NONE",
    "\nMAINTAINER ",
];

static PLACES: LazyLock<Regex> = LazyLock::new(|| {
    let span = r"span: Span \{ start: \d+, end: \d+ \}";
    let text = r#"end_line: \d+, text: "([^"\\]|\\.)*""#;
    Regex::new(&format!(r"{span}|line: \d+, |{text}")).unwrap()
});

/// A value without places and original text.
fn essence(file: &Dockerfile) -> String {
    let value = (&file.directives, &file.global_args, &file.stages);
    PLACES.replace_all(&format!("{value:?}"), "").into_owned()
}

pub(super) fn check(text: &[u8]) -> Result<(), TestCaseError> {
    let file = match parse("first", text) {
        Ok(file) => file,
        Err(error) => {
            // Every refusal can be shown.
            prop_assert!(error.render(false).contains("first"), "{}", error);
            return Ok(());
        }
    };
    let printed = file.to_string();
    let again = parse("second", printed.as_bytes());
    let again = again.map_err(|e| TestCaseError::fail(format!("{e}\n{printed}")))?;
    prop_assert_eq!(essence(&file), essence(&again), "{}", printed);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn of_pieces(picks in prop::collection::vec(0..PIECES.len(), 0..24)) {
        let pieces: String = picks.into_iter().map(|pick| PIECES[pick]).collect();
        check(format!("FROM a\nRUN {pieces}").as_bytes())?;
        check(format!("FROM a\n{pieces}").as_bytes())?;
    }

    #[test]
    fn of_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        check(&bytes)?;
        check(&[b"FROM a\nRUN ", bytes.as_slice()].concat())?;
    }
}

#[test]
fn of_what_once_came_out_otherwise() {
    for text in [
        "ENV \\\n\\  A=b\n",
        "LABEL \\  A=b\n",
        "COPY A=1 \\  <<'EOT' /raw\nx\nEOT\n",
        "COPY [ \\  <<EOT /raw\nx\nEOT\n",
        "LABEL m=\"line1 \\ \\\n",
        "ENV A=\"x\u{a0}\\ \\\n",
    ] {
        check(format!("FROM a\n{text}").as_bytes()).unwrap();
    }
}

/// Neither recursion nor time grows with what someone repeats.
#[test]
fn of_repetitions() {
    for piece in ["ONBUILD ", "${a:-", "<<A ", "[", "\\\n", "--mount=,", "\"", "#\n", "${a/"] {
        let many = piece.repeat(20_000);
        check(format!("FROM a\nRUN {many}").as_bytes()).unwrap();
        check(format!("FROM a\n{many}").as_bytes()).unwrap();
        check(format!("FROM a\nENV {many}").as_bytes()).unwrap();
    }
}

#[test]
fn of_the_reference_files() {
    for row in include_str!("../../../testdata/dockerfiles.jsonl").lines() {
        let row: Value = serde_json::from_str(row).unwrap();
        let file = row["file"].as_str().unwrap();
        let path = format!("{}/testdata/{file}", env!("CARGO_MANIFEST_DIR"));
        check(&std::fs::read(path).unwrap()).unwrap();
    }
}
