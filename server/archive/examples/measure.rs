//! Prints the cost of layouts: `cargo run --release -p archive --example measure`.
#![expect(clippy::print_stdout, reason = "printing is all it does")]
#![expect(clippy::unwrap_used, reason = "its inputs are its own")]
#![expect(clippy::disallowed_methods, reason = "a stopwatch is a clock")]

use std::collections::HashMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use archive::{
    ArchiveFormat, Catalogue, Content, EntryPath, Forms, Layout, Limits, PackName, Plan,
    Sha256Digest, Tree, UnpackEvent, UnpackLimits, Unpacker, lacking,
};
use bytes::Bytes;

fn main() {
    println!("times are the best of several runs");
    for count in [10_000, 100_000, 1_000_000] {
        measure(count);
    }
    measure_unpacking();
}

/// Unpacks 256 MiB of one file, read in pieces of 64 KiB.
fn measure_unpacking() {
    println!("\nunpacking 256 MiB");
    let line: Vec<u8> = (0..97).map(|number| b'a' + number * 7 % 26).collect();
    let content: Vec<u8> = line.iter().copied().cycle().take(256 << 20).collect();
    let mut tar = vec![0; 512];
    tar[0] = b'f';
    tar[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    tar[148..156].copy_from_slice(b"        ");
    let sum: u32 = tar.iter().copied().map(u32::from).sum();
    tar[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
    tar.extend_from_slice(&content);
    tar.resize(tar.len() + 1024, 0);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::bulk::compress(&tar, 1).unwrap();
    for (name, archive) in [("tar", &tar), ("tar.gz", &gzip), ("tar.zst", &zstd)] {
        let time = best(3, || unpack(archive));
        println!(
            "  {name}: {:.2} GB/s of contents",
            content.len() as f64 / 1e9 / time.as_secs_f64()
        );
    }
}

fn unpack(archive: &[u8]) -> u64 {
    let limits = UnpackLimits {
        ratio: u64::MAX,
        ..UnpackLimits::default()
    };
    let mut unpacker = Unpacker::new(limits);
    let mut pieces = archive.chunks(64 * 1024);
    let mut total = 0;
    loop {
        match unpacker.next_event().unwrap() {
            Some(UnpackEvent::EndOfEntry { size, .. }) => total += size,
            Some(UnpackEvent::End) => return total,
            Some(_) => {}
            None => match pieces.next() {
                Some(piece) => unpacker.feed(Bytes::copy_from_slice(piece)),
                None => unpacker.finish(),
            },
        }
    }
}

fn measure(count: u32) {
    println!("\n{count} entries");
    let runs = if count > 100_000 { 3 } else { 20 };
    let entries: Vec<_> = (0..count).map(|number| entry(number, 0)).collect();
    let tree = || Tree::try_from_entries(entries.iter().cloned(), Limits::default()).unwrap();
    report("build and check a tree", best(runs, tree));

    let catalogue = publish(1, tree());
    report(
        "encode its catalogue",
        best(runs, || {
            catalogue.encode().map(|chunk| chunk.len()).sum::<usize>()
        }),
    );
    let json = catalogue.encode().collect::<Vec<_>>().concat();
    println!("  the catalogue has {:.1} MB", json.len() as f64 / 1e6);
    report(
        "decode and check it",
        best(runs, || {
            Catalogue::decode(&json, catalogue.digest()).unwrap()
        }),
    );
    println!(
        "  in memory {:.0} bytes an entry",
        catalogue.memory() as f64 / f64::from(count)
    );

    let forms = Arc::new(Forms::raw(catalogue.tree()));
    let whole = Plan::whole(Arc::clone(&catalogue), Arc::clone(&forms)).unwrap();
    for format in [ArchiveFormat::Zip, ArchiveFormat::Tar] {
        let name = format.name();
        report(
            &format!("lay out {name}"),
            best(runs, || Layout::new(format, whole.clone())),
        );
        let layout = Layout::new(format, whole.clone());
        println!(
            "    memory {:.2} bytes an entry",
            layout.memory() as f64 / f64::from(count)
        );
        let seeks = 100_000;
        let time = best(3, || {
            let mut at = 1;
            for _ in 0..seeks {
                at = (at + layout.len() / 7 * 3 + 12_345) % layout.len();
                black_box(layout.slice(at..at + 1).next());
            }
        });
        println!("    a seek {} ns", time.as_nanos() / seeks);
        let time = best(3, || layout.slice(0..layout.len()).count());
        println!(
            "    a pass over all segments {time:.1?}, {} ns an entry",
            time.as_nanos() / u128::from(count)
        );
    }

    // Every hundredth file changed, every thousandth moved.
    let later: Vec<_> = (0..count)
        .map(|number| match number {
            changed if changed % 100 == 1 => entry(changed, 1),
            moved if moved % 1000 == 2 => {
                let (path, size, sha256, executable) = entry(moved, 0);
                (
                    EntryPath::parse(format!("{path}.moved")).unwrap(),
                    size,
                    sha256,
                    executable,
                )
            }
            same => entry(same, 0),
        })
        .collect();
    let later = publish(2, Tree::try_from_entries(later, Limits::default()).unwrap());
    let forms = Arc::new(Forms::raw(later.tree()));
    report(
        "first diff, with its sorting",
        best(1, || lacking(later.tree(), catalogue.tree())),
    );
    report(
        "diff",
        best(runs, || lacking(later.tree(), catalogue.tree())),
    );
    let since = Plan::since(Arc::clone(&catalogue), later, forms).unwrap();
    report(
        "lay out a version diff",
        best(runs, || Layout::new(ArchiveFormat::Zip, since.clone())),
    );
}

fn entry(number: u32, edition: u8) -> (EntryPath<'static>, u64, Sha256Digest, bool) {
    let path = format!("assets/group {:04}/texture-{number:07}.png", number / 500);
    let mut seed = number.to_be_bytes().to_vec();
    seed.push(edition);
    (
        EntryPath::parse(path).unwrap(),
        u64::from(number % 100_000),
        Sha256Digest::of(&seed),
        false,
    )
}

fn publish(version: u64, tree: Tree) -> Arc<Catalogue> {
    let contents: HashMap<_, _> = tree
        .entries()
        .map(|entry| {
            (
                entry.sha256,
                Content {
                    size: entry.size,
                    crc32: 7,
                },
            )
        })
        .collect();
    let pack = PackName::parse("pack").unwrap();
    Arc::new(
        Catalogue::publish(pack, version, tree, |sha256| contents.get(sha256).copied()).unwrap(),
    )
}

fn best<T>(runs: u32, mut work: impl FnMut() -> T) -> Duration {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn report(what: &str, time: Duration) {
    println!("  {what}: {time:.2?}");
}
