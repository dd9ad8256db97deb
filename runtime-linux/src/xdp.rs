//! The packet filter of one network interface: loaded, attached, switched from one table to the
//! next, read, taken away.
//!
//! Program, maps and attachment are pinned in a BPF file system of the daemon's own (`bpffs`), so
//! that they outlive the daemon: packets are judged by the last table while it restarts, and the
//! next daemon takes the maps over and replaces the program without a gap. Two rules keep that
//! harmless: a table ends by itself (`DEADLINES`), and virtual addresses that nobody renews are
//! removed by the kernel (`vip`).
//!
//! Left to others: what the filter decides (`havre_ebpf`), what the table says (`xdp::plan`).
//! Sources: bpf(2); Linux 6.1 `kernel/bpf/syscall.c`, `net/core/dev.c` (`dev_xdp_attach`).

pub mod bpffs;
pub mod capability;
pub mod filters;
mod keeper;
pub mod plan;
mod presence;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfError, EbpfLoader,
    maps::{Array, MapData, MapError, PerCpuArray},
    programs::{
        ProgramError, Xdp,
        links::{FdLink, LinkError, PinnedLink},
        xdp::{XdpLink, XdpMode},
    },
};
use havre_ebpf::{
    builder::Overflow,
    counters::{COUNTERS_TOTAL, Counter},
    layout::{LAYOUT_VERSION, NO_DEADLINE, TABLES, Table, map},
};
use thiserror::Error;
use tracing::{info, warn};

/// The program, as `cargo xtask bpf` built it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/prebuilt/filter.bpf.o");

/// Why a filter cannot work. Nothing is attached then that was not attached before, and a node
/// without its filter must accept nothing.
#[derive(Debug, Error)]
pub enum FilterError {
    /// The daemon may not do this.
    #[error(
        "the packet filter on {interface} needs {}: give it to the service \
         (AmbientCapabilities= in its unit), or run it as root",
        .missing.join(" and ")
    )]
    Capability {
        /// The interface.
        interface: String,
        /// Names of the capabilities that are missing.
        missing: Vec<&'static str>,
    },
    /// Another program is attached.
    #[error(
        "{interface} already has another XDP program; see `ip link show dev {interface}`, and \
         take it away with `ip link set dev {interface} xdp off` if it is not needed"
    )]
    Occupied {
        /// The interface.
        interface: String,
    },
    /// Neither the driver nor the kernel can run a program there.
    #[error(
        "{interface} cannot run a packet filter, neither in its driver ({driver}) nor in the \
         kernel ({generic}); use another network card for the virtual address"
    )]
    Unsupported {
        /// The interface.
        interface: String,
        /// What the kernel said to native mode.
        driver: String,
        /// What it said to generic mode.
        generic: String,
    },
    /// There is no such interface.
    #[error("there is no interface {interface}; `ip link` lists those of this machine")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// No place to keep the filter across restarts.
    #[error(
        "no BPF file system at {}: {error}; the kernel needs CONFIG_BPF_SYSCALL",
        .dir.display()
    )]
    NoFileSystem {
        /// Where it should be.
        dir: PathBuf,
        /// What the kernel said.
        error: io::Error,
    },
    /// The kernel refused the program.
    #[error("the kernel refuses the packet filter on {interface}: {error}")]
    Refused {
        /// The interface.
        interface: String,
        /// What it said, the verifier's words included.
        error: String,
    },
    /// The configuration is larger than a filter can hold.
    #[error("the packet filter on {interface}: {}", .overflow.text())]
    TooLarge {
        /// The interface.
        interface: String,
        /// What is too many.
        overflow: Overflow,
    },
    /// A map cannot be read or written.
    #[error("the packet filter's {map} on {interface}: {error}")]
    Map {
        /// The interface.
        interface: String,
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        error: String,
    },
}

/// How the program is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel makes anything of the frame.
    Native,
    /// In the kernel's common path: works with any driver, costs more.
    Generic,
    /// As an earlier daemon attached it.
    Inherited,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Inherited => "inherited",
        }
    }
}

/// [`Table`] as the kernel takes it.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct RawTable(Table);

// SAFETY: a `Table` consists of integers and arrays of integers without padding (its layout is
// `repr(C)` and a test compares its size with the sum of its fields).
unsafe impl aya::Pod for RawTable {}

/// The filter of one interface. Dropping it leaves it in force; [`detach`](Self::detach) ends it.
#[derive(Debug)]
pub struct Filter {
    interface: String,
    index: u32,
    dir: PathBuf,
    ebpf: Ebpf,
    active: u32,
    link: Option<(PinnedLink, Mode)>,
    generic_only: bool,
}

impl Filter {
    /// Loads the filter of an interface, or takes over what an earlier daemon left, with its
    /// table still in force. Attaches nothing yet: [`set`](Self::set) does.
    ///
    /// `bpffs`: a BPF file system of this daemon's own, see [`bpffs::mount`].
    pub fn open(interface: &str, index: u32, bpffs: &Path) -> Result<Self, FilterError> {
        let missing = capability::missing();
        if !missing.is_empty() {
            return Err(FilterError::Capability { interface: interface.to_owned(), missing });
        }
        let dir = bpffs.join(index.to_string());
        let maps = dir.join(format!("maps-{LAYOUT_VERSION}"));
        fs::create_dir_all(&maps)
            .map_err(|error| FilterError::NoFileSystem { dir: maps.clone(), error })?;
        let mut ebpf = load(&maps).map_err(|error| FilterError::Refused {
            interface: interface.to_owned(),
            error: chain(&error),
        })?;
        program(&mut ebpf).load().map_err(|error| FilterError::Refused {
            interface: interface.to_owned(),
            error: chain(&error),
        })?;
        let mut filter = Self {
            interface: interface.to_owned(),
            index,
            dir,
            ebpf,
            active: 0,
            link: None,
            generic_only: false,
        };
        filter.active = filter.numbers(map::ACTIVE)?.get(&0, 0).map_err(filter.map(map::ACTIVE))?;
        Ok(filter)
    }

    /// Does without native mode, if the filter is not attached yet.
    pub fn prefer_generic(&mut self) {
        self.generic_only = true;
    }

    /// From now on judges by this table, for every packet that begins to be judged after this
    /// returns. Attaches the filter if it is not attached.
    pub fn set(&mut self, table: &Table) -> Result<(), FilterError> {
        let next = (self.active + 1) % TABLES;
        let mut tables: Array<&mut MapData, RawTable> = self.array(map::TABLES)?;
        let written = tables.set(next, RawTable(*table), 0);
        written.map_err(self.map(map::TABLES))?;
        let written = self.array(map::ACTIVE)?.set(0, next, 0);
        written.map_err(self.map(map::ACTIVE))?;
        self.active = next;
        if self.link.is_none() {
            self.attach()?;
        }
        Ok(())
    }

    /// Nothing new is accepted for a module's addresses from this moment of the boot clock on;
    /// `None`: no end.
    pub fn set_deadline(&mut self, module: u8, until_ns: Option<u64>) -> Result<(), FilterError> {
        let mut deadlines: Array<&mut MapData, u64> = self.array(map::DEADLINES)?;
        let written = deadlines.set(u32::from(module), until_ns.unwrap_or(NO_DEADLINE), 0);
        written.map_err(self.map(map::DEADLINES))
    }

    /// Packets by verdict that were judged for one group.
    pub fn counters(&self, group: u8) -> Result<Vec<(Counter, u64)>, FilterError> {
        let failed = self.map(map::COUNTERS);
        let counters = self.ebpf.map(map::COUNTERS).expect("the object has this map");
        let counters: PerCpuArray<&MapData, u64> =
            PerCpuArray::try_from(counters).map_err(&failed)?;
        let sum = |counter: Counter| {
            let index = counter.index(group);
            assert!((index as usize) < COUNTERS_TOTAL, "groups are below their bound");
            let values = counters.get(&index, 0).map_err(&failed)?;
            Ok((counter, values.iter().sum()))
        };
        Counter::ALL.into_iter().map(sum).collect()
    }

    /// How the filter is attached; `None`: it is not.
    pub fn mode(&self) -> Option<Mode> {
        self.link.as_ref().map(|(_, mode)| *mode)
    }

    /// The interface.
    pub fn interface(&self) -> (&str, u32) {
        (&self.interface, self.index)
    }

    /// The program, for measurements.
    pub fn program(&mut self) -> &mut Xdp {
        program(&mut self.ebpf)
    }

    /// Takes the filter away, and everything that was pinned for it.
    pub fn detach(mut self) -> io::Result<()> {
        if let Some((link, _)) = self.link.take() {
            // The last descriptor of the link ends the attachment.
            drop(link.unpin()?);
        }
        remove_pins(&self.dir)
    }

    fn attach(&mut self) -> Result<(), FilterError> {
        let place = self.dir.join("link");
        if let Some(link) = self.inherit(&place) {
            self.link = Some((link, Mode::Inherited));
            info!(interface = self.interface, "packet filter taken over");
            return Ok(());
        }
        let (id, mode) = self.attach_new()?;
        let interface = self.interface.clone();
        let pinned = (|| {
            let link = program(&mut self.ebpf).take_link(id).map_err(|e| chain(&e))?;
            let link = FdLink::try_from(link).map_err(|e| chain(&e))?;
            link.pin(&place).map_err(|e| chain(&e))
        })();
        let link = pinned.map_err(|error| FilterError::Refused { interface, error })?;
        info!(interface = self.interface, mode = mode.name(), "packet filter attached");
        self.link = Some((link, mode));
        Ok(())
    }

    /// Puts this program in the place of the one that an earlier daemon attached.
    fn inherit(&mut self, place: &Path) -> Option<PinnedLink> {
        if !place.exists() {
            return None;
        }
        let interface = self.interface.clone();
        let replaced = (|| {
            let program = program(&mut self.ebpf);
            let link = FdLink::from(PinnedLink::from_pin(place).map_err(|e| chain(&e))?);
            let link = XdpLink::try_from(link).map_err(|e: LinkError| chain(&e))?;
            let id = program.attach_to_link(link).map_err(|e| chain(&e))?;
            // Its own reference would detach the program when it is dropped.
            drop_without_detaching(program, id)?;
            PinnedLink::from_pin(place).map_err(|e| chain(&e))
        })();
        match replaced {
            Ok(link) => Some(link),
            Err(error) => {
                // Its interface is gone, or somebody took it away: begin anew.
                info!(interface, error, "an earlier packet filter cannot be taken over");
                let _ = fs::remove_file(place);
                None
            }
        }
    }

    fn attach_new(&mut self) -> Result<(aya::programs::xdp::XdpLinkId, Mode), FilterError> {
        let (interface, index) = (self.interface.clone(), self.index);
        let program = program(&mut self.ebpf);
        let mut reason = "not tried: a virtual cable loses rewritten Ethernet addresses".to_owned();
        if !self.generic_only {
            match program.attach_to_if_index(index, XdpMode::Driver) {
                Ok(id) => return Ok((id, Mode::Native)),
                Err(error) => match obstacle(&error, &interface) {
                    Some(obstacle) => return Err(obstacle),
                    None => reason = chain(&error),
                },
            }
        }
        match program.attach_to_if_index(index, XdpMode::Skb) {
            Ok(id) => {
                warn!(interface, reason, "packet filter in generic mode: slower than native");
                Ok((id, Mode::Generic))
            }
            Err(error) => Err(obstacle(&error, &interface).unwrap_or_else(|| {
                let generic = chain(&error);
                FilterError::Unsupported { interface, driver: reason, generic }
            })),
        }
    }

    fn array<V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<Array<&mut MapData, V>, FilterError> {
        let failed = self.map(name);
        let map = self.ebpf.map_mut(name).expect("the object has this map");
        Array::try_from(map).map_err(failed)
    }

    fn numbers(&self, name: &'static str) -> Result<Array<&MapData, u32>, FilterError> {
        let map = self.ebpf.map(name).expect("the object has this map");
        Array::try_from(map).map_err(self.map(name))
    }

    fn map(&self, map: &'static str) -> impl Fn(MapError) -> FilterError + use<> {
        let interface = self.interface.clone();
        move |error| FilterError::Map { interface: interface.clone(), map, error: chain(&error) }
    }
}

fn load(maps: &Path) -> Result<Ebpf, EbpfError> {
    EbpfLoader::new().default_map_pin_directory(maps).load(OBJECT)
}

fn program(ebpf: &mut Ebpf) -> &mut Xdp {
    let program = ebpf.program_mut(map::PROGRAM).expect("the object has this program");
    program.try_into().expect("it is an XDP program")
}

fn drop_without_detaching(
    program: &mut Xdp,
    id: aya::programs::xdp::XdpLinkId,
) -> Result<(), String> {
    // The pin holds the link: closing this descriptor ends nothing.
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    drop(FdLink::try_from(link).map_err(|error| chain(&error))?);
    Ok(())
}

/// Removes the pins of a filter: closing the last reference to its link detaches it.
fn remove_pins(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Takes away every filter that an earlier daemon left in a BPF file system.
pub fn remove_leftovers(bpffs: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(bpffs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        // The kernel puts files of its own there.
        if entry.file_type()?.is_dir() {
            remove_pins(&entry.path())?;
        }
    }
    Ok(())
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let words = next.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        cause = next.source();
    }
    text
}

/// Why no mode will do, if the kernel says so.
fn obstacle(error: &ProgramError, interface: &str) -> Option<FilterError> {
    let interface = interface.to_owned();
    match errno(error)? {
        libc::EBUSY | libc::EEXIST => Some(FilterError::Occupied { interface }),
        libc::ENODEV => Some(FilterError::NoInterface { interface }),
        libc::EPERM => {
            let missing = vec!["CAP_NET_ADMIN"];
            Some(FilterError::Capability { interface, missing })
        }
        _ => None,
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(next) = cause {
        if let Some(error) = next.downcast_ref::<io::Error>() {
            return error.raw_os_error();
        }
        cause = next.source();
    }
    None
}

#[cfg(test)]
mod tests;
