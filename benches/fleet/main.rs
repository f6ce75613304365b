//! A fleet that shares nothing but a registry: builders of a monorepo, each with the real client and cache,
//! against a registry in memory that counts.
//!
//! `cargo bench --bench fleet -- [--builders=N] [--services=N] [--parallel=N] [--kilobytes=N]`
//!
//! Each builder is what a pod is: a client that knows nothing yet, the keys of one service at one commit,
//! one look-up of all of them, downloads of the layers before the first step that misses, and an upload for
//! each step that had to be executed. Commands are not executed: a layer is noise of a fixed size, and what
//! a step would make is its key. Commits come one after the other, and so do builders, `--parallel` at a
//! time: some build the same thing at once, as in life.

#![expect(clippy::print_stdout, reason = "the table is what this program is for")]

mod store;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kaniko::cache::{Cache, Lineage, Made, Place, Record, Settings};
use kaniko::image::{Blob, BlobFile, Descriptor, Digest, ImageLayer, Platform};
use kaniko::plan::{Input, Inputs, Key};
use kaniko::registry::Registry;
use store::{Counts, Store};

/// The steps of each service: what they are, and how often a commit changes what they depend on, in
/// thousands of the commits to that service. The first ones are the same for all services.
const STEPS: [(&str, u64, bool); 8] = [
    ("RUN apt-get install", 2, true),
    ("COPY tools", 10, true),
    ("RUN make tools", 0, true),
    ("COPY package.lock", 60, false),
    ("RUN install dependencies", 0, false),
    ("COPY src", 1000, false),
    ("RUN build", 0, false),
    ("RUN test", 0, false),
];

/// A number given as `--NAME=`.
fn number(name: &str, default: usize) -> usize {
    let flag = format!("--{name}=");
    let given = std::env::args().find_map(|it| it.strip_prefix(&flag).map(str::to_owned));
    given.map_or(default, |text| text.parse().expect("a number"))
}

/// What each step of a service depends on at one commit.
type Versions = [u64; STEPS.len()];

/// The history of the monorepo: for each builder the service that it builds, and the state of it. Of the
/// builders of a commit, the first builds what the commit changed, the others build other services, whose
/// sources are as before.
fn history(builders: usize, services: usize) -> Vec<(usize, Versions)> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut state = vec![[0; STEPS.len()]; services];
    let mut built = Vec::with_capacity(builders);
    for builder in 0..builders {
        let changed = random.usize(..services);
        if builder % 4 == 0 {
            for (step, (_, thousandths, everywhere)) in STEPS.iter().enumerate() {
                if random.u64(..1000) >= *thousandths {
                    continue;
                }
                let touched = if *everywhere { 0..services } else { changed..changed + 1 };
                state[touched].iter_mut().for_each(|service| service[step] += 1);
            }
        }
        let service = if builder % 4 == 0 { changed } else { random.usize(..services) };
        built.push((service, state[service]));
    }
    built
}

/// The keys of a build, in order.
fn keys(service: usize, versions: &Versions) -> Vec<(Key, Inputs)> {
    let platform = Platform::new("linux", "amd64", None);
    let mut before = Key::of_base(&[Digest::of(b"base")], &platform);
    let mut found = Vec::new();
    for ((step, _, everywhere), version) in STEPS.iter().zip(versions) {
        let own = if *everywhere { String::new() } else { format!(" of service {service}") };
        let digest = Digest::of(format!("{step}{own} {version}").as_bytes());
        let inputs = Inputs::from_iter([Input { name: (*step).to_owned(), digest }]);
        before = inputs.key(before);
        found.push((before, inputs));
    }
    found
}

/// What builders did.
#[derive(Debug, Default)]
struct Sum {
    steps: u64,
    hits: u64,
    whole: u64,
    slowest: Duration,
}

fn build(store: &Store, service: usize, versions: &Versions, size: usize, sum: &Mutex<Sum>) {
    let started = Instant::now();
    let settings = Settings {
        place: Place::parse(&format!("{}/cache", store.host), Path::new("/"), 1).expect("a place"),
        ttl: Duration::from_secs(86_400),
        run_layers: true,
        copy_layers: true,
        by_reads: false,
        push: true,
        now: 1_700_000_000,
        wait: Duration::from_secs(60),
        bases: None,
    };
    let client =
        kaniko::registry::Settings { insecure: true, insecure_pull: true, ..Default::default() };
    let registry = Registry::new(client).expect("a client");
    let dir = tempfile::tempdir().expect("a directory");
    let cache = Cache::new(&settings, &registry, dir.path().to_owned());
    let keys = keys(service, versions);
    cache.look_up(&keys.iter().map(|(key, _)| *key).collect::<Vec<_>>());
    let found: Vec<_> = keys.iter().map(|(key, _)| cache.found(*key).ok()).collect();
    let first = found.iter().position(Option::is_none);
    let mut lineage = Lineage::start();
    if let Some(first) = first {
        let hits = found[..first].iter().flatten();
        let pending: Vec<_> = hits.map(|entry| registry.fetch(&entry.layer, dir.path())).collect();
        pending.into_iter().for_each(|layer| drop(layer.wait().expect("a layer")));
    }
    let mut hits = 0;
    for (((key, inputs), entry), (step, ..)) in keys.into_iter().zip(found).zip(STEPS) {
        let outcome = key.digest();
        match entry.filter(|entry| entry.before == lineage) {
            Some(_) => hits += 1,
            None => {
                let layer = layer(dir.path(), key, size);
                let record =
                    Record::new(step, &format!("{service} {step}"), &[(String::new(), inputs)]);
                let (before, by_content, created) = (lineage, None, settings.now);
                let made = Made {
                    key,
                    before,
                    by_content,
                    created,
                    outcome,
                    layer: &layer,
                    record,
                    reads: None,
                    read_as: None,
                };
                cache.put(&made, &Platform::new("linux", "amd64", None));
            }
        }
        if step.starts_with("RUN") {
            lineage = lineage.after(outcome);
        }
    }
    cache.finish();
    let mut sum = sum.lock().expect("nobody panics");
    sum.steps += STEPS.len() as u64;
    sum.hits += hits;
    sum.whole += u64::from(hits == STEPS.len() as u64);
    sum.slowest = sum.slowest.max(started.elapsed());
}

/// Noise that is the same for the same key.
fn layer(dir: &Path, key: Key, size: usize) -> ImageLayer {
    let seed = key
        .digest()
        .bytes()
        .iter()
        .fold(0_u64, |seed, byte| seed.rotate_left(8) ^ u64::from(*byte));
    let mut random = fastrand::Rng::with_seed(seed);
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
    let path = dir.join(format!("layer-{key}"));
    std::fs::write(&path, &bytes).expect("written");
    ImageLayer {
        descriptor: Descriptor::of("application/vnd.oci.image.layer.v1.tar+gzip", &bytes),
        diff_id: Digest::of(&bytes),
        blob: Blob::File(BlobFile::kept(path)),
    }
}

fn main() {
    let (builders, services) = (number("builders", 1000), number("services", 40));
    let (parallel, size) = (number("parallel", 16), number("kilobytes", 256) << 10);
    let store = Store::start();
    let history = history(builders, services);
    let (next, sum) = (AtomicUsize::new(0), Mutex::new(Sum::default()));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                while let Some((service, versions)) =
                    history.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    build(&store, *service, versions, size, &sum);
                }
            });
        }
    });
    let wall = started.elapsed().as_secs_f64();
    told(&store, &store.counts(), &sum.into_inner().expect("nobody panics"), builders, wall);
}

fn told(store: &Store, counts: &Counts, sum: &Sum, builders: usize, wall: f64) {
    let each = |count: u64| count as f64 / builders as f64;
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let all: u64 = counts.requests.values().sum();
    println!("| {builders} builders | in all | each |\n|---|---|---|");
    println!("| steps | {} | {:.1} |", sum.steps, each(sum.steps));
    let rate = 100.0 * sum.hits as f64 / sum.steps as f64;
    println!("| hits | {} ({rate:.1} %) | {:.1} |", sum.hits, each(sum.hits));
    println!("| builds of which all hits | {} | |", sum.whole);
    println!("| requests | {all} | {:.1} |", each(all));
    let mut kinds: Vec<_> = counts.requests.iter().collect();
    kinds.sort();
    for (kind, count) in kinds {
        println!("| {kind} | {count} | {:.1} |", each(*count));
    }
    println!(
        "| MB up | {:.0} | {:.2} |",
        megabytes(counts.received),
        megabytes(counts.received) / builders as f64
    );
    println!(
        "| MB down | {:.0} | {:.2} |",
        megabytes(counts.sent),
        megabytes(counts.sent) / builders as f64
    );
    println!("| MB kept by the registry | {:.0} | |", megabytes(store.kept()));
    println!("| seconds | {wall:.1} | slowest {:.2} |", sum.slowest.as_secs_f64());
}
