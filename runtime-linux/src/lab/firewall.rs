//! Faults of a laboratory's switches between any two machines, in one direction: frames are
//! dropped all, or a share of them. Everything that passes or is dropped is counted, because a
//! fault that hit nothing proves nothing.
//!
//! Done with the `nft` program in the switch's namespace: one table of the bridge family, replaced
//! as a whole. Source: nft(8), Linux 6.1.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, Write},
    process::{Command, Stdio},
};

use super::Lab;

const TABLE: &str = "havre_lab";

/// From one machine to another on one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// The network.
    pub network: u8,
    /// Number of the machine that sends.
    pub from: usize,
    /// Number of the machine that receives.
    pub to: usize,
}

/// What happens to the frames of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Fate {
    cut: bool,
    loss_ppm: u32,
}

/// Frames of a link since it was first touched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hits {
    /// Frames that arrived at the switch for the receiver.
    pub seen: u64,
    /// Frames dropped of these.
    pub dropped: u64,
}

/// The faults of one laboratory.
#[derive(Debug, Default)]
pub struct Firewall {
    fates: BTreeMap<Link, Fate>,
    /// Counted by rules that are replaced meanwhile.
    hits: BTreeMap<Link, Hits>,
}

impl Firewall {
    /// Whether faults can be made on this machine.
    pub fn is_possible() -> bool {
        let found = Command::new("nft").arg("--version").stdout(Stdio::null()).status();
        found.is_ok_and(|status| status.success())
    }

    /// Drops every frame of these links, or none.
    ///
    /// # Errors
    /// `nft` is missing, or the kernel refuses.
    pub fn cut(&mut self, lab: &Lab, links: &[Link], cut: bool) -> io::Result<()> {
        self.change(lab, links, |fate| fate.cut = cut)
    }

    /// Drops a share of the frames of these links, in millionths.
    ///
    /// # Errors
    /// As [`cut`](Self::cut).
    pub fn lose(&mut self, lab: &Lab, links: &[Link], ppm: u32) -> io::Result<()> {
        self.change(lab, links, |fate| fate.loss_ppm = ppm)
    }

    /// Ends every cut; shares of losses stay.
    ///
    /// # Errors
    /// As [`cut`](Self::cut).
    pub fn heal(&mut self, lab: &Lab) -> io::Result<()> {
        let links: Vec<Link> = self.fates.keys().copied().collect();
        self.change(lab, &links, |fate| fate.cut = false)
    }

    fn change(&mut self, lab: &Lab, links: &[Link], change: impl Fn(&mut Fate)) -> io::Result<()> {
        self.hits = self.counted(lab)?;
        for link in links {
            change(self.fates.entry(*link).or_default());
        }
        self.fates.retain(|_, fate| *fate != Fate::default());
        let text = self.table(lab);
        nft(lab, &["-f", "-"], &text).map(drop)
    }

    /// What these links have seen since they were first touched.
    ///
    /// # Errors
    /// As [`cut`](Self::cut).
    pub fn hits(&self, lab: &Lab, links: &[Link]) -> io::Result<Hits> {
        let all = self.counted(lab)?;
        let mut sum = Hits::default();
        for hits in links.iter().filter_map(|link| all.get(link)) {
            sum.seen += hits.seen;
            sum.dropped += hits.dropped;
        }
        Ok(sum)
    }

    fn table(&self, lab: &Lab) -> String {
        let mut text = format!("table bridge {TABLE}\ndelete table bridge {TABLE}\n");
        let _ = writeln!(text, "table bridge {TABLE} {{\n chain forward {{");
        text.push_str("  type filter hook forward priority 0; policy accept;\n");
        for (link, fate) in &self.fates {
            let port = |machine: usize| &lab.machine(machine).ports[usize::from(link.network)].name;
            let place = format!("iifname \"{}\" oifname \"{}\"", port(link.from), port(link.to));
            let name = format!("{} {} {}", link.network, link.from, link.to);
            let _ = writeln!(text, "  {place} counter comment \"seen {name}\"");
            if fate.cut {
                let _ = writeln!(text, "  {place} counter drop comment \"dropped {name}\"");
            } else if fate.loss_ppm > 0 {
                let chance = format!("numgen random mod 1000000 < {}", fate.loss_ppm);
                let _ =
                    writeln!(text, "  {place} {chance} counter drop comment \"dropped {name}\"");
            }
        }
        text.push_str(" }\n}\n");
        text
    }

    /// Everything counted so far.
    fn counted(&self, lab: &Lab) -> io::Result<BTreeMap<Link, Hits>> {
        let mut hits = self.hits.clone();
        if self.fates.is_empty() {
            return Ok(hits);
        }
        let listing = nft(lab, &["list", "table", "bridge", TABLE], "")?;
        for (what, link, count) in listing.lines().filter_map(counter) {
            let hits = hits.entry(link).or_default();
            match what {
                "seen" => hits.seen += count,
                _ => hits.dropped += count,
            }
        }
        Ok(hits)
    }
}

/// `... counter packets 3 bytes 180 drop comment "dropped 0 1 2"`.
fn counter(line: &str) -> Option<(&str, Link, u64)> {
    let (_, count) = line.split_once("counter packets ")?;
    let count = count.split_whitespace().next()?.parse().ok()?;
    let (_, comment) = line.split_once("comment \"")?;
    let mut words = comment.trim_end().trim_end_matches('"').split(' ');
    let what = words.next()?;
    let link = Link {
        network: words.next()?.parse().ok()?,
        from: words.next()?.parse().ok()?,
        to: words.next()?.parse().ok()?,
    };
    Some((what, link, count))
}

/// Runs `nft` where the switches are.
fn nft(lab: &Lab, arguments: &[&str], input: &str) -> io::Result<String> {
    lab.as_client(|| {
        let mut command = Command::new("nft");
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        child.stdin.take().expect("stdin was asked for").write_all(input.as_bytes())?;
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(io::Error::other(format!("nft: {text}")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_from_the_listing() {
        let line = "\t\tiifname \"p0m1\" oifname \"p0m2\" numgen random mod 1000000 < 10 \
                    counter packets 3 bytes 180 drop comment \"dropped 0 1 2\"";
        let link = Link { network: 0, from: 1, to: 2 };
        assert_eq!(counter(line), Some(("dropped", link, 3)));
        assert_eq!(counter("\t\ttype filter hook forward priority 0; policy accept;"), None);
    }
}
