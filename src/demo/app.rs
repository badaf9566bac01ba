//! The counter application: `web` asks `app`, `app` asks `db` to count, and one line says who
//! answered: `web.1 app.3 count=17`.
//!
//! It finds its neighbours by name as any program would, with the C library's resolver, so what it
//! shows is portolan's DNS and VIPs at work. Asked to end, it finishes the requests it has.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Which part of the application to play, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct App {
    /// The part.
    pub role: Role,
    /// What it calls itself in its answers; the host name unless given.
    #[arg(long)]
    pub name: Option<String>,
    /// Whom it asks: `app:8080` for web, `db:6379` for app.
    #[arg(long)]
    pub next: Option<String>,
}

/// A part of the application.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
pub enum Role {
    /// HTTP on 8080; asks app.
    Web,
    /// HTTP on 8080; asks db.
    App,
    /// Counts: `INCR` on 6379.
    Db,
}

impl App {
    /// Serves until a signal says to end.
    pub fn run(self) -> io::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.serve())?;
        Ok(ExitCode::SUCCESS)
    }

    async fn serve(self) -> io::Result<()> {
        let port = if self.role == Role::Db { 6379 } else { 8080 };
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
        let part = Arc::new(Part {
            role: self.role,
            name: self.name.unwrap_or_else(hostname),
            next: self.next.unwrap_or_else(|| {
                if self.role == Role::Web { "app:8080" } else { "db:6379" }.to_owned()
            }),
            count: AtomicU64::new(0),
        });
        let (connections, stop) = (TaskTracker::new(), CancellationToken::new());
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                        connections.spawn(Arc::clone(&part).connection(stream, stop.clone()));
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                },
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
            }
        }
        drop(listener);
        stop.cancel();
        connections.close();
        // Whoever is still connected after the patience of a client has no use for an answer.
        timeout(PATIENCE * 2, connections.wait()).await.ok();
        Ok(())
    }
}

/// More than any demonstration needs, fewer than descriptors allow.
const MAX_CONNECTIONS: usize = 500;
/// How long one neighbour may take.
const PATIENCE: Duration = Duration::from_secs(5);

struct Part {
    role: Role,
    name: String,
    next: String,
    count: AtomicU64,
}

impl Part {
    async fn connection(self: Arc<Self>, stream: TcpStream, stop: CancellationToken) {
        let served = match self.role {
            Role::Db => self.count(stream, stop).await,
            Role::Web | Role::App => self.http(stream, stop).await,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn count(&self, mut stream: TcpStream, stop: CancellationToken) -> io::Result<()> {
        let (reader, mut writer) = stream.split();
        let mut lines = BufReader::new(reader.take(1 << 20)).lines();
        loop {
            let line = tokio::select! {
                line = lines.next_line() => line?,
                () = stop.cancelled() => return Ok(()),
            };
            match line.as_deref().map(str::trim) {
                Some("INCR") => {
                    let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
                    writer.write_all(format!(":{count}\r\n").as_bytes()).await?;
                }
                Some(_) => writer.write_all(b"-ERR say INCR\r\n").await?,
                None => return Ok(()),
            }
        }
    }

    async fn http(self: Arc<Self>, stream: TcpStream, stop: CancellationToken) -> io::Result<()> {
        let service = service_fn(|request| self.answer(request));
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(30))
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        tokio::select! {
            served = connection.as_mut() => return served.map_err(io::Error::other),
            () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
        }
        connection.await.map_err(io::Error::other)
    }

    async fn answer(
        &self,
        request: Request<hyper::body::Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        if request.uri().path() == "/headers" {
            return Ok(plain(StatusCode::OK, headers_of(&request)));
        }
        if request.uri().path() == "/healthy" {
            return Ok(plain(StatusCode::OK, "healthy\n".to_owned()));
        }
        let next = timeout(PATIENCE, self.ask_next()).await;
        let next = next.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        Ok(match next {
            Ok(said) => plain(StatusCode::OK, format!("{} {said}\n", self.name)),
            Err(error) => {
                let text = format!("{} cannot ask {}: {error}\n", self.name, self.next);
                plain(StatusCode::BAD_GATEWAY, text)
            }
        })
    }

    async fn ask_next(&self) -> io::Result<String> {
        let stream = TcpStream::connect(self.resolve().await?).await?;
        match self.role {
            Role::Web => fetch(stream, &self.next).await,
            Role::App | Role::Db => increment(stream).await,
        }
    }

    async fn resolve(&self) -> io::Result<SocketAddr> {
        // The name server shuffles, so the first address is a fair choice.
        let mut found = tokio::net::lookup_host(&self.next).await?;
        found.next().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

async fn fetch(stream: TcpStream, host: &str) -> io::Result<String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let request = Request::get("/").header("host", host).body(Full::<Bytes>::default());
    let request = request.map_err(io::Error::other)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), 1024).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        if status.is_success() { Ok(text) } else { Err(io::Error::other(text)) }
    };
    tokio::select! {
        said = exchange => said,
        ended = connection => Err(match ended {
            Ok(()) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => io::Error::other(error),
        }),
    }
}

async fn increment(mut stream: TcpStream) -> io::Result<String> {
    stream.write_all(b"INCR\r\n").await?;
    let mut line = String::new();
    BufReader::new(stream.take(64)).read_line(&mut line).await?;
    let count = line.trim().strip_prefix(':');
    count.map(|count| format!("count={count}")).ok_or_else(|| io::Error::other(line.clone()))
}

fn headers_of(request: &Request<hyper::body::Incoming>) -> String {
    let lines = request
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    lines.collect()
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
