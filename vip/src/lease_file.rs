//! Keeps the leases on disk, so that addresses survive a restart.
//!
//! Invariants
//! - *whole*: a reader finds the old file or the new one, never half of one (temporary file,
//!   fsync, rename);
//! - *forgiving*: a file that cannot be understood is moved aside with a note; services then get
//!   new addresses, and nothing fails.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use registry::Notes;
use serde::{Deserialize, Serialize};

use crate::lease::{Block, Holder, Lease, Leases};

/// The file's name in the state directory.
const NAME: &str = "vip-leases.json";
/// The form of the file that this version writes and reads.
const VERSION: u32 = 1;
/// More than a lease for every address of a /12 takes; a larger file is not ours.
const MOST_BYTES: u64 = 256 << 20;

/// The lease file of one state directory.
#[derive(Clone, Debug)]
pub(crate) struct LeaseFile {
    path: PathBuf,
}

/// Why leases could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the VIP leases to `{}`", path.display())]
pub(crate) struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// Why a file could not be understood.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("it is larger than {MOST_BYTES} bytes")]
    TooLarge,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    #[error("it has form {0}, this version reads {VERSION}")]
    Version(u32),
}

impl LeaseFile {
    pub(crate) fn in_dir(state_dir: &Path) -> Self {
        Self { path: state_dir.join(NAME) }
    }

    /// What was last written; nothing if there is no file or it cannot be understood.
    pub(crate) fn load(&self) -> (Leases, Notes) {
        let mut notes = Notes::default();
        let error = match self.read() {
            Ok(leases) => return (leases, notes),
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                return (Leases::default(), notes);
            }
            Err(error) => error,
        };
        let aside = self.path.with_extension("json.corrupt");
        let kept = match fs::rename(&self.path, &aside) {
            Ok(()) => format!("it was moved to `{}`", aside.display()),
            Err(error) => format!("it could not be moved aside: {error}"),
        };
        notes.warning(
            format!("vip leases `{}`", self.path.display()),
            "",
            format!("cannot be read: {error}; {kept}; allocated VIPs may change"),
            "none needed if clients look names up again; otherwise restore the file from a backup",
        );
        (Leases::default(), notes)
    }

    /// Replaces the file.
    pub(crate) fn store(&self, leases: &Leases) -> Result<(), WriteError> {
        self.write(leases).map_err(|source| WriteError { path: self.path.clone(), source })
    }

    fn read(&self) -> Result<Leases, ReadError> {
        let mut text = String::new();
        let read = File::open(&self.path)?.take(MOST_BYTES + 1).read_to_string(&mut text)?;
        if u64::try_from(read).is_ok_and(|read| read > MOST_BYTES) {
            return Err(ReadError::TooLarge);
        }
        let form: Form = serde_json::from_str(&text)?;
        form.leases()
    }

    fn write(&self, leases: &Leases) -> io::Result<()> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new("."));
        fs::create_dir_all(directory)?;
        let new = self.path.with_extension("json.new");
        let file = File::create(&new)?;
        let mut out = io::BufWriter::new(&file);
        serde_json::to_writer_pretty(&mut out, &Form::of(leases))?;
        out.write_all(b"\n")?;
        out.flush()?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        // The rename itself is only on disk once the directory is.
        File::open(directory)?.sync_all()
    }
}

/// The file's form.
#[derive(Deserialize, Serialize)]
struct Form {
    version: u32,
    blocks: Vec<BlockForm>,
}

#[derive(Deserialize, Serialize)]
struct BlockForm {
    range: Text<IpNet>,
    network: HolderForm,
    leases: Vec<LeaseForm>,
}

#[derive(Deserialize, Serialize)]
struct LeaseForm {
    address: IpAddr,
    service: HolderForm,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    released: Option<u64>,
}

#[derive(Deserialize, Serialize)]
struct HolderForm {
    id: String,
    name: String,
}

/// A value that stands in the file as people write it.
struct Text<T>(T);

impl Serialize for Text<IpNet> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text<IpNet> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let range: IpNet = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self(range.trunc()))
    }
}

impl Form {
    fn of(leases: &Leases) -> Self {
        let holder = |it: &Holder| HolderForm { id: it.id.clone(), name: it.name.clone() };
        let lease = |(address, it): (&IpAddr, &Lease)| LeaseForm {
            address: *address,
            service: holder(&it.service),
            released: it.released,
        };
        let block = |(range, it): (&IpNet, &Block)| BlockForm {
            range: Text(*range),
            network: holder(&it.network),
            leases: it.leases.iter().map(lease).collect(),
        };
        Self { version: VERSION, blocks: leases.blocks.iter().map(block).collect() }
    }

    fn leases(self) -> Result<Leases, ReadError> {
        if self.version != VERSION {
            return Err(ReadError::Version(self.version));
        }
        let mut blocks: BTreeMap<IpNet, Block> = BTreeMap::new();
        for BlockForm { range: Text(range), network, leases } in self.blocks {
            let lease = |it: LeaseForm| {
                (it.address, Lease { service: it.service.into(), released: it.released })
            };
            let leases = leases.into_iter().map(lease).collect();
            blocks.insert(range, Block { network: network.into(), leases });
        }
        Ok(Leases { blocks })
    }
}

impl From<HolderForm> for Holder {
    fn from(HolderForm { id, name }: HolderForm) -> Self {
        Self { id, name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A state directory that is removed with the test.
    struct StateDir(PathBuf);

    impl StateDir {
        fn new(test: &str) -> Self {
            let path = std::env::temp_dir().join(format!("vip-{test}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for StateDir {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn some_leases() -> Leases {
        let holder = |it: &str| Holder { id: format!("{it}-id"), name: it.to_owned() };
        let lease = |it: &str, released| Lease { service: holder(it), released };
        let leases = [
            ("240.240.3.1".parse().unwrap(), lease("world:/web", None)),
            ("240.240.3.2".parse().unwrap(), lease("compose:shop/db", Some(1_700_000_000_000))),
        ];
        let block = Block { network: holder("blue"), leases: leases.into() };
        Leases { blocks: [("240.240.3.0/24".parse().unwrap(), block)].into() }
    }

    #[test]
    fn what_is_stored_is_loaded() {
        let dir = StateDir::new("stored");
        let file = LeaseFile::in_dir(&dir.0.join("made"));
        assert_eq!(file.load(), (Leases::default(), Notes::default()));
        file.store(&some_leases()).unwrap();
        file.store(&some_leases()).unwrap();
        assert_eq!(file.load(), (some_leases(), Notes::default()));
        assert_eq!(fs::read_dir(dir.0.join("made")).unwrap().count(), 1, "nothing else is left");
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_moved_aside_with_a_note() {
        for (name, text, cause) in [
            (
                "half",
                "{\"version\": 1, \"blocks\": [",
                "EOF while parsing a list at line 1 column 26",
            ),
            ("later", "{\"version\": 2, \"blocks\": []}", "it has form 2, this version reads 1"),
        ] {
            let dir = StateDir::new(name);
            let path = dir.0.join("vip-leases.json");
            fs::write(&path, text).unwrap();
            let (leases, notes) = LeaseFile::in_dir(&dir.0).load();
            assert_eq!(leases, Leases::default());
            let aside = dir.0.join("vip-leases.json.corrupt");
            let expected = format!(
                "warning: vip leases `{}`: cannot be read: {cause}; it was moved to `{}`; allocated \
                 VIPs may change; none needed if clients look names up again; otherwise restore \
                 the file from a backup",
                path.display(),
                aside.display()
            );
            assert_eq!(notes.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
            assert_eq!(fs::read_to_string(aside).unwrap(), text);
            assert_eq!(path.try_exists().ok(), Some(false));
        }
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_an_error_that_names_the_file() {
        let dir = StateDir::new("refused");
        let in_the_way = dir.0.join("file");
        fs::write(&in_the_way, "").unwrap();
        let error = LeaseFile::in_dir(&in_the_way).store(&some_leases()).unwrap_err();
        let path = in_the_way.join("vip-leases.json");
        assert_eq!(
            error.to_string(),
            format!("cannot write the VIP leases to `{}`", path.display())
        );
    }
}
