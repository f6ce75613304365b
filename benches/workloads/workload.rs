//! What is built: seven Dockerfiles, their contexts, their bases.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::base;
use crate::craft::{Compression, Craft, Layer};
use crate::tools;

/// Makes an OCI layout, or finds it made, and says where it is.
type MakeLayout = fn() -> PathBuf;

/// One row group of the table.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Name in the Dockerfile, and what makes the layout. The first is what the floor runs on.
    pub(crate) bases: Vec<(&'static str, MakeLayout)>,
    pub(crate) dockerfile: String,
    /// The same without the steps that are counted.
    pub(crate) idle: Option<String>,
    pub(crate) steps: u32,
    /// Whether there are stages that do not need each other.
    pub(crate) independent: bool,
    pub(crate) context: fn(&Path),
    /// A shell script with `$root` and `$context`.
    pub(crate) floor: String,
}

/// All of them, in the order of the table.
pub(crate) fn workloads() -> Vec<Workload> {
    vec![
        small_steps(),
        packages(),
        small_files(),
        large_file(),
        multi_stage(),
        copies(),
        independent_stages(),
    ]
}

fn small_steps() -> Workload {
    const STEPS: u32 = 20;
    let idle = "FROM {many}\nRUN true\n".to_owned();
    let mut dockerfile = idle.clone();
    let mut floor = String::new();
    for step in 0..STEPS {
        let command = format!("echo {step} > /step-{step}");
        writeln!(dockerfile, "RUN {command}").expect("text in memory");
        writeln!(floor, "chroot $root /bin/sh -c '{command}'").expect("text in memory");
    }
    Workload {
        name: "w1",
        title: "20 small RUN steps on a base of 50,000 files",
        bases: vec![("many", many_files)],
        dockerfile,
        idle: Some(idle),
        steps: STEPS,
        independent: false,
        context: |_| {},
        floor,
    }
}

fn packages() -> Workload {
    Workload {
        name: "w2",
        title: "dpkg -i of ten packages and what they need",
        bases: vec![("debian", base::debian)],
        dockerfile: "FROM {debian}\nCOPY *.deb /debs/\nRUN dpkg -i /debs/*.deb\n".to_owned(),
        idle: None,
        steps: 1,
        independent: false,
        context: |context| {
            for package in fs::read_dir(base::packages()).expect("the packages") {
                let package = package.expect("an entry");
                fs::copy(package.path(), context.join(package.file_name())).expect("a package");
            }
        },
        floor: "cp -r $context $root/debs; mount --rbind /dev $root/dev
            PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot $root /bin/sh -c 'dpkg -i /debs/*.deb'"
            .to_owned(),
    }
}

fn small_files() -> Workload {
    let step =
        "mkdir /small; i=0; while [ $i -lt 10000 ]; do echo $i > /small/$i; i=$((i+1)); done";
    Workload {
        name: "w3",
        title: "10,000 small files in one step",
        bases: vec![("many", many_files)],
        dockerfile: format!("FROM {{many}}\nRUN {step}\n"),
        idle: None,
        steps: 1,
        independent: false,
        context: |_| {},
        floor: format!("chroot $root /bin/sh -c '{step}'"),
    }
}

fn large_file() -> Workload {
    let step = "i=0; while [ $i -lt 512 ]; do cat /block /zeros; i=$((i+1)); done > /large";
    Workload {
        name: "w4",
        title: "one file of 1 GB, half of it compressible",
        bases: vec![("busybox", base::busybox)],
        dockerfile: format!("FROM {{busybox}}\nCOPY block zeros /\nRUN {step}\n"),
        idle: None,
        steps: 1,
        independent: false,
        context: |context| {
            fs::write(context.join("block"), noise(1 << 20, 1)).expect("the block");
            fs::write(context.join("zeros"), vec![0; 1 << 20]).expect("the zeros");
        },
        floor: format!("cp $context/block $context/zeros $root/; chroot $root /bin/sh -c '{step}'"),
    }
}

fn multi_stage() -> Workload {
    const RULES: &str = "objects = $(patsubst %.c,%.o,$(wildcard *.c))\nprogram: $(objects)\n\t\
                         $(CC) -static -o $@ $^\n";
    Workload {
        name: "w5",
        title: "make -j2 of 150 C files, the program into a small image",
        bases: vec![("toolchain", base::toolchain), ("busybox", base::busybox)],
        dockerfile: "FROM {toolchain} AS build\nWORKDIR /src\nCOPY . .\nRUN make -j2\n\
                     FROM {busybox}\nCOPY --from=build /src/program /usr/bin/program\n"
            .to_owned(),
        idle: None,
        steps: 1,
        independent: false,
        context: |context| {
            fs::write(context.join("Makefile"), RULES).expect("the Makefile");
            fs::write(context.join("main.c"), "int main(void) { return 0; }\n").expect("main.c");
            for unit in 0..150 {
                let text = format!(
                    "#include <stdio.h>\nint f{unit}(void) {{ return puts(\"{unit}\"); }}\n"
                );
                fs::write(context.join(format!("unit{unit}.c")), text).expect("a unit");
            }
        },
        floor: "cp -r $context $root/src; mount --rbind /dev $root/dev
            chroot $root /bin/sh -c 'cd /src && make -j2'"
            .to_owned(),
    }
}

fn copies() -> Workload {
    Workload {
        name: "w6",
        title: "COPY of 20,000 files",
        bases: vec![("busybox", base::busybox)],
        dockerfile: "FROM {busybox}\nCOPY . /files/\n".to_owned(),
        idle: None,
        steps: 1,
        independent: false,
        context: |context| {
            for directory in 0..200_u32 {
                let home = context.join(format!("d{directory}"));
                fs::create_dir(&home).expect("a directory");
                for file in 0..100_u32 {
                    let bytes = noise(1024, directory * 100 + file + 1);
                    fs::write(home.join(format!("f{file}")), bytes).expect("a file");
                }
            }
        },
        floor: "cp -r $context $root/files".to_owned(),
    }
}

fn independent_stages() -> Workload {
    // One waits, as for the network; one computes.
    let waits = "i=0; while [ $i -lt 20 ]; do sleep 0.1; echo $i > /waited$i; i=$((i+1)); done";
    let computes = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo $i > /computed";
    Workload {
        name: "w7",
        title: "three stages that do not need each other, and one that copies from them",
        bases: vec![("many", many_files)],
        dockerfile: format!(
            "FROM {{many}} AS waits\nRUN {waits}\nFROM {{many}} AS computes\nRUN {computes}\n\
             FROM {{many}} AS again\nRUN {computes}\nFROM {{many}}\n\
             COPY --from=waits /waited19 /\nCOPY --from=computes /computed /\n\
             COPY --from=again /computed /again\n"
        ),
        idle: None,
        steps: 3,
        independent: true,
        context: |_| {},
        floor: format!("chroot $root /bin/sh -c '{waits}; {computes}; {computes}'"),
    }
}

/// BusyBox and 50,000 files of up to 16 KB in four layers.
fn many_files() -> PathBuf {
    base::made("many", |home| {
        let bundle = home.join("tree");
        let image = format!("{}:{}", base::busybox().display(), base::TAG);
        tools::run(
            "umoci",
            ["unpack".as_ref(), "--image".as_ref(), image.as_ref(), bundle.as_os_str()],
        );
        let tar = home.join("layer.tar");
        base::pack(&bundle.join("rootfs"), &tar);
        let craft = Craft::new().tar(fs::read(&tar).expect("the layer"), Compression::Gzip);
        fs::remove_file(tar).expect("the tar is removed");
        fs::remove_dir_all(bundle).expect("the tree is removed");
        let layers = (0..4).fold(craft, |craft, layer| craft.layer(files_layer(layer)));
        layers.write(home, base::TAG);
    })
}

fn files_layer(number: u32) -> Layer {
    let top = format!("files{number}");
    let mut layer = Layer::new().directory(&top);
    for directory in 0..125 {
        layer = layer.directory(&format!("{top}/{directory}"));
        for file in 0..100 {
            let seed = number * 12_500 + directory * 100 + file + 1;
            let mut bytes = noise((seed % 8192) as usize, seed);
            // As long again in what compresses well.
            bytes.extend(vec![b'a'; bytes.len()]);
            layer = layer.file(&format!("{top}/{directory}/{file}"), bytes);
        }
    }
    layer
}

/// Bytes that do not compress, the same for the same seed (xorshift).
fn noise(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}
