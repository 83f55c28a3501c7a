//! Information of the operating system about a running process.

use std::path::PathBuf;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A process, by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process(u32);

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resident {
    /// All resident memory, including mapped files.
    pub total: u64,
    /// Private memory, which no file backs.
    pub anonymous: u64,
}

/// Output of a process so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Written {
    /// Bytes sent to storage, or to be sent.
    pub bytes: u64,
    /// Number of write calls, including those to sockets.
    pub calls: u64,
}

impl Process {
    /// Returns the process of `child`.
    pub fn of(child: &std::process::Child) -> Self {
        Self(child.id())
    }

    /// Sends `signal`; a process that has already ended is no error.
    pub fn signal(self, signal: Signal) {
        let number = i32::try_from(self.0).expect("process numbers fit");
        if let Some(pid) = Pid::from_raw(number) {
            // Fails only if the process has ended.
            let _ = kill_process(pid, signal);
        }
    }

    /// Returns the output so far; zero once the process has ended.
    pub fn written(self) -> Written {
        let io = std::fs::read_to_string(self.file("io")).unwrap_or_default();
        let count = |name: &str| {
            let line = io.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|count| count.trim().parse().ok())
                .unwrap_or(0)
        };
        Written {
            bytes: count("write_bytes:"),
            calls: count("syscw:"),
        }
    }

    /// Returns the resident memory of this process alone; zero once it has ended.
    pub fn resident(self) -> Resident {
        Resident {
            total: self.memory("VmRSS:"),
            anonymous: self.memory("RssAnon:"),
        }
    }

    /// Resets [`Process::peak`] to the current memory.
    pub fn forget_peak(self) {
        // proc_pid_clear_refs(5): 5 resets the peak to what is resident now.
        std::fs::write(self.file("clear_refs"), "5").expect("a parent may reset its child's peak");
    }

    /// Returns the maximum of resident memory in bytes; zero once the process has ended.
    pub fn peak(self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(self, name: &str) -> u64 {
        let status = std::fs::read_to_string(self.file("status")).unwrap_or_default();
        status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"))
            .and_then(|number| number.trim().parse::<u64>().ok())
            .map_or(0, |kib| kib * 1024)
    }

    /// Returns the CPU time, user and system, that this process has used so far.
    pub fn cpu_time(self) -> Duration {
        // proc_pid_stat(5): utime and stime are fields 14 and 15, in clock ticks of 1/100 s; the
        // name in parentheses is the second and may contain any characters.
        let stat = std::fs::read_to_string(self.file("stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks: u64 = after_name
            .split_ascii_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// Returns this process and all its descendants.
    pub fn family(self) -> Vec<Self> {
        let mut family = vec![self];
        let mut next = 0;
        while let Some(parent) = family.get(next).copied() {
            next += 1;
            let list = parent.file(&format!("task/{}/children", parent.0));
            let children = std::fs::read_to_string(list).unwrap_or_default();
            family.extend(
                children
                    .split_ascii_whitespace()
                    .filter_map(|number| number.parse().ok().map(Self)),
            );
        }
        family
    }

    fn file(self, name: &str) -> PathBuf {
        format!("/proc/{}/{name}", self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_children() {
        let me = Process(std::process::id());
        let resident = me.resident();
        assert!(resident.anonymous > 0 && resident.total >= resident.anonymous);

        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let parent = Process(std::process::id());
        // `children` lists the children of the main thread only, so query the child itself too.
        assert!(parent.family().contains(&me));
        Process::of(&child).signal(Signal::KILL);
        assert!(!child.wait().unwrap().success());
    }
}
