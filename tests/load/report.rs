//! Medians, and the table.

use std::fmt;
use std::io::Write as _;
use std::time::Duration;

use tests::process::Resident;

use crate::peers::Kind;

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Amount of work in one turn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Work {
    /// Bytes transferred.
    Bytes(u64),
    /// Requests answered.
    Requests(u64),
}

/// Figures of one turn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cells {
    Work {
        unit: Unit,
        /// Rate in terms of the unit.
        rate: f64,
        p50: Duration,
        p99: Duration,
        /// CPU time in terms of the unit.
        cpu: f64,
    },
    Memory(Resident),
}

/// Unit of the figures of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// MB/s, and CPU seconds per GiB.
    Bytes,
    /// Requests per second, and CPU microseconds per request.
    Requests,
}

/// All turns of one row.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) title: &'static str,
    pub(crate) turns: Vec<(Kind, Vec<Cells>)>,
}

/// All measured rows.
#[derive(Debug)]
pub(crate) struct Table(Vec<Line>);

impl Cells {
    pub(crate) fn work(
        work: Work,
        elapsed: Duration,
        p50: Duration,
        p99: Duration,
        cpu: Duration,
    ) -> Self {
        let (elapsed, cpu) = (elapsed.as_secs_f64(), cpu.as_secs_f64());
        let (unit, rate, cpu) = match work {
            Work::Bytes(bytes) => {
                let bytes = float(bytes);
                (Unit::Bytes, bytes / elapsed / 1e6, cpu / (bytes / GIB))
            }
            Work::Requests(requests) => {
                let requests = float(requests);
                (Unit::Requests, requests / elapsed, cpu * 1e6 / requests)
            }
        };
        Self::Work {
            unit,
            rate,
            p50,
            p99,
            cpu,
        }
    }

    pub(crate) fn memory(resident: Resident) -> Self {
        Self::Memory(resident)
    }
}

impl Table {
    pub(crate) fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a row and prints it at once.
    pub(crate) fn add(&mut self, line: Line) {
        print(&line.to_string());
        self.0.push(line);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\n| row | peer | throughput | p50 | p99 | server CPU | beside the others |"
        )?;
        writeln!(f, "|---|---|---:|---:|---:|---:|---|")?;
        self.0.iter().try_for_each(|line| write!(f, "{line}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let medians: Vec<(Kind, Cells)> = self
            .turns
            .iter()
            .filter_map(|(kind, turns)| Some((*kind, median(turns)?)))
            .collect();
        for (kind, cells) in &medians {
            write!(f, "| {} | {} | {cells} |", self.title, kind.name())?;
            if *kind == Kind::Longhaul {
                let others = medians.iter().filter(|(other, _)| other != kind);
                let ratios: Vec<String> = others
                    .filter_map(|(other, others)| {
                        Some(format!("{:.2} of {}", ratio(cells, others)?, other.name()))
                    })
                    .collect();
                write!(f, " {}", ratios.join(", "))?;
            }
            writeln!(f, " |")?;
        }
        Ok(())
    }
}

impl fmt::Display for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Work {
                unit,
                rate,
                p50,
                p99,
                cpu,
            } => {
                match unit {
                    Unit::Bytes => write!(f, "{rate:.0} MB/s")?,
                    Unit::Requests => write!(f, "{rate:.0} req/s")?,
                }
                write!(f, " | {} | {} | ", Milliseconds(*p50), Milliseconds(*p99))?;
                match unit {
                    Unit::Bytes => write!(f, "{cpu:.2} s/GiB"),
                    Unit::Requests => write!(f, "{cpu:.1} µs/req"),
                }
            }
            Self::Memory(resident) => {
                let mib = |bytes: u64| float(bytes) / (1024.0 * 1024.0);
                write!(
                    f,
                    "{:.1} MiB own, {:.1} MiB resident | | | ",
                    mib(resident.anonymous),
                    mib(resident.total)
                )
            }
        }
    }
}

struct Milliseconds(Duration);

impl fmt::Display for Milliseconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} ms", self.0.as_secs_f64() * 1e3)
    }
}

/// Returns the median of each figure separately.
fn median(turns: &[Cells]) -> Option<Cells> {
    let of = |figure: &dyn Fn(&Cells) -> f64| {
        let mut figures: Vec<f64> = turns.iter().map(figure).collect();
        figures.sort_unstable_by(f64::total_cmp);
        figures[figures.len() / 2]
    };
    Some(match *turns.first()? {
        Cells::Work { unit, .. } => {
            let seconds = |figure: fn(&Cells) -> f64| Duration::from_secs_f64(of(&figure));
            Cells::Work {
                unit,
                rate: of(&rate),
                p50: seconds(|cells| match cells {
                    Cells::Work { p50, .. } => p50.as_secs_f64(),
                    Cells::Memory(_) => 0.0,
                }),
                p99: seconds(|cells| match cells {
                    Cells::Work { p99, .. } => p99.as_secs_f64(),
                    Cells::Memory(_) => 0.0,
                }),
                cpu: of(&|cells| match cells {
                    Cells::Work { cpu, .. } => *cpu,
                    Cells::Memory(_) => 0.0,
                }),
            }
        }
        // The first turn is the one that began with a fresh server.
        Cells::Memory(resident) => Cells::Memory(resident),
    })
}

fn rate(cells: &Cells) -> f64 {
    match cells {
        Cells::Work { rate, .. } => *rate,
        Cells::Memory(resident) => float(resident.anonymous),
    }
}

fn ratio(ours: &Cells, theirs: &Cells) -> Option<f64> {
    let theirs = rate(theirs);
    (theirs > 0.0).then(|| rate(ours) / theirs)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "figures for people need no more than 52 bits"
)]
fn float(number: u64) -> f64 {
    number as f64
}

/// Writes to standard output, the purpose of this program.
pub(crate) fn print(text: &str) {
    // A closed standard output cannot be reported anywhere.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
