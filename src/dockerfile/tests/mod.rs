//! Tests that need more than one module of the front end.

mod errors;
mod fuzz;
mod meaning;
mod peers;
mod printing;
mod reference;
mod words;

/// The Dockerfiles of `testdata/builds` and `testdata/checks.txt`.
fn corpus() -> Vec<String> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    let builds = std::fs::read_dir(format!("{root}/builds")).unwrap();
    let mut paths: Vec<_> = builds.map(|file| file.unwrap().path()).collect();
    paths.push(format!("{root}/checks.txt").into());
    paths.sort();
    let texts = paths.iter().map(|path| std::fs::read_to_string(path).unwrap());
    let parts = |text: String| {
        let parts = text.split("--- Dockerfile\n").skip(1).map(str::to_owned).collect::<Vec<_>>();
        parts
            .into_iter()
            .map(|part| part.split("--- result\n").next().unwrap_or_default().to_owned())
    };
    texts.flat_map(parts).collect()
}
