//! The guard over an in-memory connection, with time standing still.

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

fn guarded() -> (Guard<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(4096);
    (guard(near), far)
}

fn guard<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Guard<S> {
    let rules = Rules {
        heads: HeadLimits { target: 200, head: 500 },
        head_time: Duration::from_secs(10),
        keep_alive: Duration::from_secs(75),
        stall: Duration::from_secs(60),
        refuse: Box::new(|refusal| format!("refused {}", refusal.status.as_u16()).into_bytes()),
    };
    Guard::new(stream, Rc::new(rules))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_head_in_pieces_comes_out_whole() {
    let (mut guard, mut client) = guarded();
    let writing = async {
        for byte in GET {
            client.write_all(&[*byte]).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let mut buffer = [0; 100];
    let (read, ()) = tokio::join!(guard.read(&mut buffer), writing);
    assert_eq!(&buffer[..read.unwrap()], GET);
}

#[tokio::test(start_paused = true)]
async fn more_than_the_reader_has_room_for_is_kept_for_it() {
    let (mut guard, mut client) = guarded();
    client.write_all(&GET[..5]).await.unwrap();
    let mut small = [0; 7];
    let mut got = Vec::new();
    let writing = async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        client.write_all(&GET[5..]).await.unwrap();
        client.write_all(&GET.repeat(3)).await.unwrap();
        drop(client);
    };
    let reading = async {
        loop {
            let count = guard.read(&mut small).await.unwrap();
            if count == 0 {
                break;
            }
            got.extend_from_slice(&small[..count]);
        }
    };
    tokio::join!(writing, reading);
    assert_eq!(got, GET.repeat(4));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_takes_too_long_is_refused_with_408() {
    let (mut guard, mut client) = guarded();
    client.write_all(b"GET / HT").await.unwrap();
    let began = Instant::now();
    let dripping = async {
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if client.write_all(b"x").await.is_err() {
                break;
            }
        }
    };
    let reading = async {
        assert_eq!(guard.read(&mut [0; 100]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 10, "drops of data do not prolong it");
    };
    tokio::join!(reading, dripping);
    guard.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "refused 408");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_closed_without_a_word() {
    let (mut guard, mut client) = guarded();
    let began = Instant::now();
    assert_eq!(guard.read(&mut [0; 100]).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 10);
    guard.shutdown().await.unwrap();
    drop(guard);
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "");
}

#[tokio::test(start_paused = true)]
async fn between_requests_a_client_may_pause_longer() {
    let (mut guard, mut client) = guarded();
    let mut buffer = [0; 100];
    for pause in [74, 0, 3, 70] {
        client.write_all(GET).await.unwrap();
        assert_eq!(guard.read(&mut buffer).await.unwrap(), GET.len());
        let idle = tokio::time::timeout(Duration::from_secs(pause), guard.read(&mut buffer));
        assert!(idle.await.is_err(), "still open after {pause} s");
    }
    let began = Instant::now();
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 0);
    assert_eq!(began.elapsed().as_secs(), 5, "75 s after the last request");
}

#[tokio::test(start_paused = true)]
async fn a_head_after_a_pause_has_its_own_time() {
    let (mut guard, mut client) = guarded();
    client.write_all(GET).await.unwrap();
    let mut buffer = [0; 100];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), GET.len());
    let slow = async {
        tokio::time::sleep(Duration::from_secs(70)).await;
        client.write_all(b"GET ").await.unwrap();
        client
    };
    let began = Instant::now();
    let (read, mut client) = tokio::join!(guard.read(&mut buffer), slow);
    assert_eq!((read.unwrap(), began.elapsed().as_secs()), (0, 80));
    guard.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "refused 408");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_written_after_what_came_before() {
    let (mut guard, mut client) = guarded();
    client.write_all(GET).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\n\n").await.unwrap();
    let mut buffer = [0; 200];
    assert_eq!(guard.read(&mut buffer).await.unwrap(), GET.len());
    assert_eq!(guard.read(&mut buffer).await.unwrap(), 0);
    guard.write_all(b"first ").await.unwrap();
    guard.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "first refused 400");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_given_up() {
    let (mut guard, client) = guarded();
    let began = Instant::now();
    let error = guard.write_all(&[0; 10_000]).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 60));
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_that_takes_something_is_not() {
    let (mut guard, mut client) = guarded();
    let data = vec![0; 40_000];
    let began = Instant::now();
    let reading = async {
        let mut taken = 0;
        while taken < 40_000 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            taken += client.read(&mut [0; 2_000]).await.unwrap();
        }
    };
    let (written, ()) = tokio::join!(guard.write_all(&data), reading);
    written.unwrap();
    assert!(began.elapsed().as_secs() > 600);
}

#[tokio::test(start_paused = true)]
async fn between_requests_closing_waits_for_nobody() {
    let (mut guard, mut client) = guarded();
    client.write_all(GET).await.unwrap();
    assert_eq!(guard.read(&mut [0; 100]).await.unwrap(), GET.len());
    let began = Instant::now();
    guard.shutdown().await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_a_client_that_still_sends_but_not_for_long() {
    let (mut guard, mut client) = guarded();
    client.write_all(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    assert!(guard.read(&mut [0; 100]).await.unwrap() > 0);
    let began = Instant::now();
    let sending = async {
        while client.write_all(&[0; 1_000]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if began.elapsed().as_secs() > 10 {
                break;
            }
        }
    };
    let closing = async {
        guard.shutdown().await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 2);
        drop(guard);
    };
    tokio::join!(closing, sending);
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn closing_ends_though_the_client_sends_faster_than_it_is_read() {
    let endless = tokio::io::join(tokio::io::repeat(b'\n'), tokio::io::sink());
    let mut guard = guard(endless);
    assert_eq!(guard.read(&mut [0; 100]).await.unwrap(), 0, "refused");
    let closing = tokio::time::timeout(Duration::from_secs(6), guard.shutdown());
    closing.await.expect("the client is given up").unwrap();
}
