//! An engine made of recorded answers, behind a real unix socket: answers can be changed, delayed
//! and broken, and events sent.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::broadcast;
use tokio::task::JoinSet;

/// A fake engine; it stops when dropped.
pub(super) struct Engine {
    pub(super) folder: PathBuf,
    answers: Arc<Mutex<BTreeMap<String, Answer>>>,
    events: broadcast::Sender<String>,
    serving: JoinSet<()>,
}

#[derive(Clone)]
struct Answer {
    status: u16,
    body: Value,
    after: Duration,
}

impl Engine {
    /// An engine that answers as the recorded one did.
    pub(super) fn start(name: &str, test: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("fake-engine-{}-{test}", std::process::id()));
        std::fs::create_dir_all(folder.join("netns")).unwrap();
        let engine = Self {
            folder,
            answers: Arc::default(),
            events: broadcast::channel(64).0,
            serving: JoinSet::new(),
        };
        engine.load(name);
        engine.listening()
    }

    pub(super) fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The folder of namespaces, as containers' keys have it.
    pub(super) fn netns(&self) -> PathBuf {
        self.folder.join("netns")
    }

    /// From now on `path` is answered so.
    pub(super) fn answer(&self, path: &str, body: Value) {
        self.set(path, Answer { status: 200, body, after: Duration::ZERO });
    }

    /// From now on `path` fails with that status.
    pub(super) fn fail(&self, path: &str, status: u16) {
        let body = json!({"message": "out of order"});
        self.set(path, Answer { status, body, after: Duration::ZERO });
    }

    /// From now on the answer to `path` takes that long.
    pub(super) fn delay(&self, path: &str, after: Duration) {
        let answer = self.answers.lock().unwrap().get(path).unwrap().clone();
        self.set(path, Answer { after, ..answer });
    }

    /// What `path` is answered with.
    pub(super) fn answered(&self, path: &str) -> Value {
        self.answers.lock().unwrap().get(path).unwrap().body.clone()
    }

    /// The id of the container of that name.
    pub(super) fn container(&self, name: &str) -> String {
        let listed = self.answered("/containers/json");
        let mut listed = listed.as_array().unwrap().iter();
        let found =
            listed.find(|it| it["Names"][0].as_str().unwrap().starts_with(&format!("/{name}")));
        found.unwrap()["Id"].as_str().unwrap().to_owned()
    }

    /// Sends an event to whoever listens.
    pub(super) fn event(&self, kind: &str, action: &str, subject: &str, attributes: &Value) {
        let actor = json!({"ID": subject, "Attributes": attributes});
        let event = json!({"Type": kind, "Action": action, "Actor": actor, "scope": "local"});
        self.events.send(format!("{event}\n")).unwrap();
    }

    /// Breaks all connections and takes the socket away.
    pub(super) async fn stop(&mut self) {
        self.serving.shutdown().await;
        std::fs::remove_file(self.socket()).unwrap();
    }

    /// Serves again after [`Engine::stop`].
    pub(super) fn listening(mut self) -> Self {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let (answers, events) = (Arc::clone(&self.answers), self.events.clone());
        self.serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (answers, events) = (Arc::clone(&answers), events.clone());
                connections.spawn(async move {
                    let service = service_fn(|request| respond(request, &answers, &events));
                    let connection = hyper::server::conn::http1::Builder::new();
                    connection.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        self
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("docker.sock")
    }

    fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn load(&self, name: &str) {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/engine");
        let text = std::fs::read_to_string(fixtures.join(format!("{name}.json"))).unwrap();
        let text = text.replace("/var/run/docker/netns", self.netns().to_str().unwrap());
        let recorded: Value = serde_json::from_str(&text).unwrap();
        for path in ["version", "info", "networks", "services", "tasks", "nodes"] {
            if !recorded[path].is_null() {
                self.answer(&format!("/{path}"), recorded[path].clone());
            }
        }
        let containers = recorded["containers"].as_array().unwrap();
        self.answer("/containers/json", containers.iter().map(listed).collect());
        for container in containers {
            let id = container["Id"].as_str().unwrap();
            self.answer(&format!("/containers/{id}/json"), container.clone());
        }
        for (id, gossip) in recorded["gossip"].as_object().unwrap() {
            self.answer(&format!("/networks/{id}"), gossip.clone());
        }
        for name in recorded["folder"].as_array().unwrap() {
            std::fs::write(self.netns().join(name.as_str().unwrap()), "").unwrap();
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.folder).ok();
    }
}

/// A container as the list has it.
fn listed(container: &Value) -> Value {
    json!({
        "Id": container["Id"], "Names": [container["Name"]], "Created": 1,
        "State": container["State"]["Status"], "Labels": container["Config"]["Labels"],
        "NetworkSettings": {"Networks": container["NetworkSettings"]["Networks"]},
    })
}

type Body =
    Either<Full<Bytes>, StreamBody<stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

async fn respond(
    request: Request<Incoming>,
    answers: &Mutex<BTreeMap<String, Answer>>,
    events: &broadcast::Sender<String>,
) -> Result<Response<Body>, Infallible> {
    if request.uri().path() == "/events" {
        let lines = stream::unfold(events.subscribe(), async |mut events| {
            let line = events.recv().await.ok()?;
            Some((Ok(Frame::data(Bytes::from(line))), events))
        });
        return Ok(Response::new(Either::Right(StreamBody::new(Box::pin(lines)))));
    }
    let answer = answers.lock().unwrap().get(request.uri().path()).cloned();
    let answer = answer.unwrap_or(Answer {
        status: 404,
        body: json!({"message": "no such thing"}),
        after: Duration::ZERO,
    });
    tokio::time::sleep(answer.after).await;
    let mut response = Response::new(Either::Left(Full::new(answer.body.to_string().into())));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    Ok(response)
}
