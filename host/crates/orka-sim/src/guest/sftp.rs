//! The SFTP side of an embedded guest: version 3 of the protocol on the local file system, starting in the VM's home.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File as FsFile, FileTimes, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use russh_sftp::protocol::{
    Attrs, Data, File, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode, Version,
};
use russh_sftp::server::{Handler, StatusReply};
use tokio::sync::oneshot;

use super::command::{Exit, Program};

/// Bytes of the pipe between the channel and the protocol; a little over the largest packet.
const PIPE: usize = 512 << 10;

/// Directory entries in one answer.
const ENTRIES_PER_READ: usize = 100;

/// Most bytes read at once.
const READ_MAX: u32 = 256 << 10;

/// An SFTP server as a program with standard input and output.
pub(super) fn program(home: &Path) -> Program {
    let (near, far) = tokio::io::duplex(PIPE);
    let (done, ended) = oneshot::channel::<()>();
    let (stdout, stdin) = tokio::io::split(near);
    let server = Server {
        home: home.to_owned(),
        files: HashMap::new(),
        listings: HashMap::new(),
        next: 0,
        _done: done,
    };
    tokio::spawn(async move { russh_sftp::server::run(far, server).await });
    Program {
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: None,
        merged: false,
        // The sender lives in the server, and goes when that has ended.
        exit: Box::pin(async move {
            let _ = ended.await;
            Ok(Exit::Status(0))
        }),
    }
}

/// State of one SFTP session.
struct Server {
    home: PathBuf,
    files: HashMap<String, FsFile>,
    listings: HashMap<String, VecDeque<File>>,
    next: u64,
    _done: oneshot::Sender<()>,
}

type Answer<T> = Result<T, StatusReply>;

impl Server {
    /// A path of the protocol on this machine: relative to the home.
    fn local(&self, path: &str) -> PathBuf {
        self.home.join(path)
    }

    fn handle(&mut self, id: u32) -> Handle {
        self.next += 1;
        Handle {
            id,
            handle: format!("h{}", self.next),
        }
    }

    fn file(&self, handle: &str) -> Answer<&FsFile> {
        self.files
            .get(handle)
            .ok_or_else(|| StatusCode::Failure.with_message("unknown handle"))
    }

    fn rename_over(&self, data: &[u8]) -> Answer<()> {
        let mut rest = data;
        let (old, new) = (take_string(&mut rest)?, take_string(&mut rest)?);
        fs::rename(self.local(&old), self.local(&new)).map_err(failure)
    }
}

/// Takes one length-prefixed string off the data of an extended request.
fn take_string(data: &mut &[u8]) -> Answer<String> {
    let malformed = || StatusReply::new(StatusCode::BadMessage);
    let (length, rest) = data.split_at_checked(4).ok_or_else(malformed)?;
    let length = u32::from_be_bytes(length.try_into().map_err(|_| malformed())?) as usize;
    let (text, rest) = rest.split_at_checked(length).ok_or_else(malformed)?;
    *data = rest;
    String::from_utf8(text.to_vec()).map_err(|_| malformed())
}

fn failure(error: io::Error) -> StatusReply {
    let code = match error.kind() {
        ErrorKind::NotFound => StatusCode::NoSuchFile,
        ErrorKind::PermissionDenied => StatusCode::PermissionDenied,
        ErrorKind::UnexpectedEof => StatusCode::Eof,
        _ => StatusCode::Failure,
    };
    code.with_message(error.to_string())
}

fn done(id: u32) -> Status {
    Status {
        id,
        status_code: StatusCode::Ok,
        error_message: "Ok".to_owned(),
        language_tag: "en-US".to_owned(),
    }
}

fn attributes(metadata: &fs::Metadata) -> FileAttributes {
    let seconds = |time: i64| u32::try_from(time).unwrap_or_default();
    FileAttributes {
        size: Some(metadata.len()),
        uid: Some(metadata.uid()),
        gid: Some(metadata.gid()),
        permissions: Some(metadata.mode()),
        atime: Some(seconds(metadata.atime())),
        mtime: Some(seconds(metadata.mtime())),
        ..FileAttributes::default()
    }
}

/// Applies size, mode and times; ownership is left alone, as it is for ordinary users.
fn apply(file: &FsFile, attrs: &FileAttributes) -> io::Result<()> {
    if let Some(size) = attrs.size {
        file.set_len(size)?;
    }
    if let Some(mode) = attrs.permissions {
        file.set_permissions(fs::Permissions::from_mode(mode & 0o7777))?;
    }
    if let (Some(accessed), Some(modified)) = (attrs.atime, attrs.mtime) {
        let time = |seconds: u32| UNIX_EPOCH + Duration::from_secs(u64::from(seconds));
        file.set_times(
            FileTimes::new()
                .set_accessed(time(accessed))
                .set_modified(time(modified)),
        )?;
    }
    Ok(())
}

/// Resolves `.` and `..` in a path, following what exists and keeping the rest.
fn canonical(path: &Path) -> PathBuf {
    if let Ok(real) = fs::canonicalize(path) {
        return real;
    }
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

impl Handler for Server {
    type Error = StatusReply;

    fn unimplemented(&self) -> Self::Error {
        StatusReply::new(StatusCode::OpUnsupported)
    }

    async fn init(
        &mut self,
        _version: u32,
        _extensions: HashMap<String, String>,
    ) -> Answer<Version> {
        let mut version = Version::new();
        for name in ["posix-rename@openssh.com", "fsync@openssh.com"] {
            version.extensions.insert(name.to_owned(), "1".to_owned());
        }
        Ok(version)
    }

    async fn open(
        &mut self,
        id: u32,
        name: String,
        flags: OpenFlags,
        attrs: FileAttributes,
    ) -> Answer<Handle> {
        let path = self.local(&name);
        let mut options = OpenOptions::from(flags);
        options.mode(attrs.permissions.map_or(0o666, |mode| mode & 0o7777));
        let file = options.open(path).map_err(failure)?;
        let handle = self.handle(id);
        self.files.insert(handle.handle.clone(), file);
        Ok(handle)
    }

    async fn close(&mut self, id: u32, handle: String) -> Answer<Status> {
        let known = self.files.remove(&handle).is_some() | self.listings.remove(&handle).is_some();
        known
            .then(|| done(id))
            .ok_or_else(|| StatusCode::Failure.with_message("unknown handle"))
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, length: u32) -> Answer<Data> {
        let file = self.file(&handle)?;
        let mut data = vec![0; length.min(READ_MAX) as usize];
        let count = file.read_at(&mut data, offset).map_err(failure)?;
        if count == 0 {
            return Err(StatusReply::new(StatusCode::Eof));
        }
        data.truncate(count);
        Ok(Data { id, data })
    }

    async fn write(
        &mut self,
        id: u32,
        handle: String,
        offset: u64,
        data: Vec<u8>,
    ) -> Answer<Status> {
        self.file(&handle)?
            .write_all_at(&data, offset)
            .map_err(failure)?;
        Ok(done(id))
    }

    async fn lstat(&mut self, id: u32, path: String) -> Answer<Attrs> {
        let metadata = fs::symlink_metadata(self.local(&path)).map_err(failure)?;
        Ok(Attrs {
            id,
            attrs: attributes(&metadata),
        })
    }

    async fn stat(&mut self, id: u32, path: String) -> Answer<Attrs> {
        let metadata = fs::metadata(self.local(&path)).map_err(failure)?;
        Ok(Attrs {
            id,
            attrs: attributes(&metadata),
        })
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Answer<Attrs> {
        let metadata = self.file(&handle)?.metadata().map_err(failure)?;
        Ok(Attrs {
            id,
            attrs: attributes(&metadata),
        })
    }

    async fn setstat(&mut self, id: u32, path: String, attrs: FileAttributes) -> Answer<Status> {
        let path = self.local(&path);
        let writes = attrs.size.is_some();
        let file = OpenOptions::new()
            .read(!writes)
            .write(writes)
            .open(path)
            .map_err(failure)?;
        apply(&file, &attrs).map_err(failure)?;
        Ok(done(id))
    }

    async fn fsetstat(&mut self, id: u32, handle: String, attrs: FileAttributes) -> Answer<Status> {
        apply(self.file(&handle)?, &attrs).map_err(failure)?;
        Ok(done(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Answer<Handle> {
        let directory = self.local(&path);
        let mut entries = VecDeque::new();
        for (name, at) in [(".", directory.clone()), ("..", directory.join(".."))] {
            let metadata = fs::symlink_metadata(at).map_err(failure)?;
            entries.push_back(File::new(name, attributes(&metadata)));
        }
        for entry in fs::read_dir(directory).map_err(failure)? {
            let entry = entry.map_err(failure)?;
            // An entry that has vanished since is no error of the listing.
            if let Ok(metadata) = entry.metadata() {
                entries.push_back(File::new(
                    entry.file_name().to_string_lossy(),
                    attributes(&metadata),
                ));
            }
        }
        let handle = self.handle(id);
        self.listings.insert(handle.handle.clone(), entries);
        Ok(handle)
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Answer<Name> {
        let unknown = || StatusCode::Failure.with_message("unknown handle");
        let entries = self.listings.get_mut(&handle).ok_or_else(unknown)?;
        if entries.is_empty() {
            return Err(StatusReply::new(StatusCode::Eof));
        }
        let count = entries.len().min(ENTRIES_PER_READ);
        Ok(Name {
            id,
            files: entries.drain(..count).collect(),
        })
    }

    async fn remove(&mut self, id: u32, path: String) -> Answer<Status> {
        fs::remove_file(self.local(&path)).map_err(failure)?;
        Ok(done(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, attrs: FileAttributes) -> Answer<Status> {
        let path = self.local(&path);
        fs::create_dir(&path).map_err(failure)?;
        if let Some(mode) = attrs.permissions {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode & 0o7777))
                .map_err(failure)?;
        }
        Ok(done(id))
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Answer<Status> {
        fs::remove_dir(self.local(&path)).map_err(failure)?;
        Ok(done(id))
    }

    async fn realpath(&mut self, id: u32, path: String) -> Answer<Name> {
        let real = canonical(&self.local(&path));
        Ok(Name {
            id,
            files: vec![File::dummy(real.to_string_lossy())],
        })
    }

    async fn rename(&mut self, id: u32, old: String, new: String) -> Answer<Status> {
        let (old, new) = (self.local(&old), self.local(&new));
        // Version 3 forbids replacing; `posix-rename@openssh.com` is there for that.
        if fs::symlink_metadata(&new).is_ok() {
            return Err(StatusCode::Failure.with_message("the new name exists"));
        }
        fs::rename(old, new).map_err(failure)?;
        Ok(done(id))
    }

    async fn readlink(&mut self, id: u32, path: String) -> Answer<Name> {
        let target = fs::read_link(self.local(&path)).map_err(failure)?;
        Ok(Name {
            id,
            files: vec![File::dummy(target.to_string_lossy())],
        })
    }

    async fn symlink(&mut self, id: u32, link: String, target: String) -> Answer<Status> {
        // OpenSSH sends and expects the two paths in the opposite order of the draft, and so does everybody.
        let (target, link) = (link, target);
        std::os::unix::fs::symlink(target, self.local(&link)).map_err(failure)?;
        Ok(done(id))
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Answer<Packet> {
        match request.as_str() {
            "posix-rename@openssh.com" => self.rename_over(&data)?,
            "fsync@openssh.com" => {
                let handle = take_string(&mut data.as_slice())?;
                self.file(&handle)?.sync_all().map_err(failure)?;
            }
            _ => return Err(self.unimplemented()),
        }
        Ok(done(id).into())
    }
}
