//! The admin socket: what the parts last said, as JSON over HTTP on a unix socket.
//!
//! Always true here: it only reads; whoever may open the socket (mode 0660, group `portolan`
//! where it exists) may ask, and a slow asker holds up nobody.

pub mod api;
pub mod client;
pub mod views;

use std::convert::Infallible;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use views::{Status, status};

use crate::supervise::Live;

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// A portolan answers there already.
    #[error(
        "a portolan already runs on this machine (it answers on {socket}); stop it first, or set \
         `admin.socket` to run another"
    )]
    Running {
        /// The socket's path.
        socket: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {socket}: {source}; set `admin.socket` to a path that you can write")]
    Listen {
        /// The socket's path.
        socket: PathBuf,
        /// The refusal.
        source: std::io::Error,
    },
}

/// As many askers as get an answer at a time; the next one waits for its turn.
const MAX_CONNECTIONS: usize = 32;
/// How long an asker may take to send its question and to read the answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The admin socket, listening; its file goes with it.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl AdminSocket {
    /// Serves until `stop`.
    pub fn serve(self, live: Live, tasks: &mut JoinSet<()>, stop: CancellationToken) {
        tasks.spawn(async move { accept(&self.listener, Arc::new(live), &stop).await });
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

/// Makes the admin socket at `path`. This comes first at a start, because who holds the socket is
/// this machine's portolan, and nobody else touches the kernel.
pub async fn listen(path: &Path) -> Result<AdminSocket, AdminError> {
    if UnixStream::connect(path).await.is_ok() {
        return Err(AdminError::Running { socket: path.to_owned() });
    }
    let make = || -> std::io::Result<UnixListener> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // What is left of one that was killed; nobody answered there a moment ago.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
        if let Some(group) = group_id("portolan") {
            std::os::unix::fs::chown(path, None, Some(group))?;
        }
        Ok(listener)
    };
    match make() {
        Ok(listener) => Ok(AdminSocket { listener, path: path.to_owned() }),
        Err(source) => Err(AdminError::Listen { socket: path.to_owned(), source }),
    }
}

fn group_id(name: &str) -> Option<u32> {
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    let line = groups.lines().find(|line| line.split(':').next() == Some(name))?;
    line.split(':').nth(2)?.parse().ok()
}

async fn accept(listener: &UnixListener, live: Arc<Live>, stop: &CancellationToken) {
    let (connections, places) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    loop {
        let place = tokio::select! {
            place = Arc::clone(&places).acquire_owned() => place,
            () = stop.cancelled() => return,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        let Ok((stream, _)) = stream else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let live = Arc::clone(&live);
        connections.spawn(async move {
            let service = service_fn(|request| {
                let response = respond(&live, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            match timeout(PATIENCE, connection).await {
                Ok(Err(error)) => tracing::debug!(%error, "admin connection ended"),
                Ok(Ok(())) => {}
                Err(_) => tracing::debug!("an asker did not read its answer in time"),
            }
            drop(place);
        });
    }
}

fn respond<B>(live: &Live, request: &Request<B>) -> Response<Full<Bytes>> {
    let (status, json) = if request.method() == Method::GET {
        api::answer(live, request.uri().path(), request.uri().query().unwrap_or_default())
    } else {
        (StatusCode::METHOD_NOT_ALLOWED, api::error("only GET is understood here"))
    };
    let mut response = Response::new(Full::new(Bytes::from(json.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
