//! `warmer`: fills a directory with base images, for executors that read them there.

fn main() {
    std::process::exit(kaniko::cli::warm_main());
}
