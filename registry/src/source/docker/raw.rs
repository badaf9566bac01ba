//! One GET of a JSON list from the engine with our own structs, for the list that bollard does not
//! model. A connection for each request, as bollard does it too.

use std::error::Error;
use std::fmt::Write as _;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::source::docker::error::EngineError;

/// The longest answer that is read: about 100,000 tasks.
const MAX_BYTES: usize = 256 << 20;

type Failure = Box<dyn Error + Send + Sync>;

/// `GET PATH?filters={"FILTER":[VALUES]}` from the engine at `endpoint`.
pub(crate) async fn get_list<T: DeserializeOwned>(
    endpoint: &str,
    request: &'static str,
    path: &str,
    filter: &str,
    values: &[String],
) -> Result<Vec<T>, EngineError> {
    let filters = serde_json::json!({ filter: values }).to_string();
    let target = format!("{path}?filters={}", percent_encoded(&filters));
    let broken = |it| EngineError::from_transport(endpoint, request, it);
    let (status, body) = exchange(endpoint, &target).await.map_err(broken)?;
    if status != 200 {
        let message = serde_json::from_slice::<serde_json::Value>(&body)
            .ok()
            .and_then(|it| Some(it.get("message")?.as_str()?.to_owned()))
            .unwrap_or_default();
        return Err(EngineError::Refused { request, status, message });
    }
    serde_json::from_slice::<Option<Vec<T>>>(&body)
        .map(Option::unwrap_or_default)
        .map_err(|source| EngineError::Unreadable { request, source: Box::new(source) })
}

async fn exchange(endpoint: &str, target: &str) -> Result<(u16, Bytes), Failure> {
    match endpoint.split_once("://") {
        Some(("unix", path)) => get(UnixStream::connect(path).await?, "docker", target).await,
        Some((_, address)) => get(TcpStream::connect(address).await?, address, target).await,
        None => Err(endpoint.into()),
    }
}

async fn get<S>(stream: S, host: &str, target: &str) -> Result<(u16, Bytes), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(target).header("host", host).body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await?;
        Ok((status, body.to_bytes()))
    };
    // The connection moves only while it is polled; it has nothing left to do after the answer.
    tokio::pin!(answer, connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        ended = &mut connection => {
            ended?;
            answer.await
        }
    }
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").ok(); // writing to a string cannot fail
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_survive_the_query_string() {
        assert_eq!(percent_encoded(r#"{"id":["a-1"]}"#), "%7B%22id%22%3A%5B%22a%2D1%22%5D%7D");
    }
}
