//! `testdata/checks.txt`: for each rule what it finds (`+Rule`) and what it leaves alone (`-Rule`), rewritten by
//! `BLESS=1`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::{Findings, Options, Rule, Surroundings, stages, text};
use crate::context::Ignore;
use crate::dockerfile::parse;
use crate::image::{Flavor, Image, Platform, Reference};
use crate::plan::{Arguments, BaseImages, Goals, plan};
use crate::report::Failure;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/checks.txt");

/// Any image there is; those called `arm` are for another machine, those called `set` have
/// variables, and those called `onbuild` triggers.
struct Any;

impl BaseImages for Any {
    fn image(&self, reference: &Reference, platform: &Platform) -> Result<Image, Failure> {
        let name = reference.to_string();
        let made_for = if name.contains("arm") {
            Platform::new("linux", "arm64", None)
        } else {
            platform.clone()
        };
        let image = Image::scratch(Flavor::Docker, &made_for);
        let mut config = image.config().clone();
        if name.contains("set") {
            config.config.env.push("FROM_BASE=1".to_owned());
        }
        if name.contains("onbuild") {
            let triggers = ["ENV FROM_TRIGGER=1 X=$Y", "CMD run", "EXPOSE 80/TCP"];
            config.config.on_build = triggers.map(str::to_owned).to_vec();
        }
        Ok(image.with_config(config))
    }

    fn context_image(&self, _name: &str, _platform: &Platform) -> Result<Option<Image>, Failure> {
        Ok(None)
    }

    fn has_context(&self, name: &str) -> bool {
        name == "other"
    }

    fn is_scratch(&self, _name: &str) -> bool {
        false
    }
}

struct Case {
    title: String,
    sections: BTreeMap<String, String>,
}

impl Case {
    fn section(&self, name: &str) -> &str {
        self.sections.get(name).map(String::as_str).unwrap_or_default()
    }

    fn result(&self) -> String {
        let file = parse("Dockerfile", self.section("Dockerfile").as_bytes()).expect(&self.title);
        let platform = Platform::new("linux", "amd64", None);
        let given = self.section("args").lines().filter_map(|line| line.split_once('='));
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let arguments = Arguments::new(given, &platform, &platform, None);
        let options = file.directives.check.as_deref().unwrap_or_default();
        let mut found = Findings::new(Options::of_comment(options).expect(&self.title));
        text(&file, &arguments, &mut found);
        let goals = Goals { targets: Vec::new(), unused: true };
        let plan = plan(&file, &goals, &arguments, &platform, &Any).expect(&self.title);
        let ignore = Ignore::parse(self.section("ignore").as_bytes()).expect(&self.title);
        let around = Surroundings {
            dockerfile: &file,
            arguments: &arguments,
            ignore: &ignore,
            images: &Any,
        };
        stages(&plan, around, &mut found);
        found.sorted().iter().fold(String::new(), |mut all, it| {
            let _ = writeln!(all, "{}: {}: {}", it.line, it.rule, it.message);
            all
        })
    }
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut section = String::new();
    for line in text.split_inclusive('\n') {
        if let Some(title) = line.strip_prefix("=== ") {
            cases.push(Case { title: title.trim_end().to_owned(), sections: BTreeMap::new() });
        } else if let Some(name) = line.strip_prefix("--- ") {
            section = name.trim_end().to_owned();
        } else if let Some(case) = cases.last_mut() {
            case.sections.entry(section.clone()).or_default().push_str(line);
        }
    }
    cases
}

#[test]
fn what_each_rule_finds_and_what_it_leaves_alone() {
    let golden = std::fs::read_to_string(GOLDEN).expect("the cases are there");
    let (mut written, mut seen) = (String::new(), BTreeSet::new());
    for case in cases(&golden) {
        let result = case.result();
        let _ = writeln!(written, "=== {}", case.title);
        for name in ["ignore", "args", "Dockerfile"] {
            if case.sections.contains_key(name) {
                let _ = write!(written, "--- {name}\n{}", case.section(name));
            }
        }
        let _ = writeln!(written, "--- result\n{result}");
        let (sign, rule) = case.title.split_at(1);
        let rule = rule.split(' ').next().unwrap_or_default();
        assert_eq!(
            result.contains(&format!(": {rule}: ")),
            sign == "+",
            "{}\n{result}",
            case.title
        );
        seen.insert((sign.to_owned(), rule.to_owned()));
    }
    for rule in Rule::ALL {
        for sign in ["+", "-"] {
            assert!(seen.contains(&(sign.to_owned(), rule.to_string())), "no case {sign}{rule}");
        }
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(GOLDEN, &written).expect("the cases are written");
    }
    assert_eq!(written, std::fs::read_to_string(GOLDEN).expect("the cases are there"));
}

#[test]
fn every_rule_is_explained() {
    let text = include_str!("../../docs/checks.md");
    let explained: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    for rule in Rule::ALL {
        assert!(explained.contains(&rule.to_string().as_str()), "{rule}");
    }
}
