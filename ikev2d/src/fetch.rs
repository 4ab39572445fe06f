// SPDX-License-Identifier: Apache-2.0 OR MIT
//! HTTP for OCSP (RFC 6960 appendix A) and revocation lists: one request at a time, on a thread that may
//! wait.

use std::time::Duration;

use ikev2d_crypto::fetch::Fetch;
use ureq::http::Response;
use ureq::{Agent, Body};

/// An HTTP client that follows nobody elsewhere.
#[derive(Debug)]
pub(crate) struct Http(Agent);

impl Default for Http {
    fn default() -> Self {
        let config = Agent::config_builder()
            // The certificate names the responder: neither an answer nor our environment another one.
            .max_redirects(0)
            .max_redirects_will_error(true)
            .proxy(None)
            .max_idle_connections(0)
            .build();
        Self(config.into())
    }
}

impl Fetch for Http {
    fn post(
        &self,
        uri: &str,
        content_type: &str,
        body: &[u8],
        limit: usize,
        patience: Duration,
    ) -> Result<Vec<u8>, String> {
        let request = self.0.post(uri).config().timeout_global(Some(patience));
        let sent = request.build().content_type(content_type).send(body);
        whole(sent, limit)
    }

    fn get(&self, uri: &str, limit: usize, patience: Duration) -> Result<Vec<u8>, String> {
        let request = self.0.get(uri).config().timeout_global(Some(patience));
        whole(request.build().call(), limit)
    }
}

fn whole(answer: Result<Response<Body>, ureq::Error>, limit: usize) -> Result<Vec<u8>, String> {
    let mut response = answer.map_err(|error| error.to_string())?;
    if response.status() != 200 {
        return Err(format!("HTTP status {}", response.status()));
    }
    let body = response.body_mut().with_config().limit(limit as u64);
    body.read_to_vec().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpListener;
    use std::sync::mpsc::channel;

    use super::*;

    /// A server that writes this to each who connects, and hangs up when the test is over.
    fn serve(answer: &'static [u8]) -> (String, std::sync::mpsc::Sender<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let uri = format!("http://{}/ocsp", listener.local_addr().unwrap());
        let (over, wait) = channel::<()>();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let mut seen = Vec::new();
            let whole = |seen: &[u8]| {
                let got = seen.starts_with(b"GET") && seen.ends_with(b"\r\n\r\n");
                got || seen.ends_with(b"question")
            };
            while !whole(&seen) {
                match stream.read(&mut request) {
                    Ok(0) | Err(_) => break,
                    Ok(n) => seen.extend_from_slice(&request[..n]),
                }
            }
            let _ = stream.write_all(answer);
            let _ = wait.recv();
        });
        (uri, over)
    }

    type Ask = fn(&str, Duration) -> Result<Vec<u8>, String>;

    const ASKS: [Ask; 2] = [
        |uri, patience| {
            Http::default().post(uri, "application/ocsp-request", b"question", 1024, patience)
        },
        |uri, patience| Http::default().get(uri, 1024, patience),
    ];

    #[test]
    fn an_answer_comes_whole() {
        for ask in ASKS {
            let (uri, _over) = serve(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nanswer");
            assert_eq!(ask(&uri, Duration::from_secs(60)).unwrap(), b"answer");
        }
    }

    /// B30: what is too large, elsewhere, refused or cut off is no answer.
    #[test]
    fn answers_are_bounded_and_nobody_leads_elsewhere() {
        let large: &'static [u8] = Box::leak(
            [
                &b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n"[..],
                &[b'x'; 1 << 20],
            ]
            .concat()
            .into_boxed_slice(),
        );
        for answer in [
            large,
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nno",
            b"SSH-2.0-nothing\r\n",
        ] {
            for ask in ASKS {
                let (uri, _over) = serve(answer);
                let answer = ask(&uri, Duration::from_secs(60));
                assert!(answer.is_err(), "{answer:?}");
            }
        }
    }

    /// B30: one that says nothing, or stops in the middle, is given up in time.
    #[test]
    fn a_silent_server_is_given_up() {
        for answer in [&b""[..], b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nans"] {
            for ask in ASKS {
                let (uri, _over) = serve(answer);
                let answer = ask(&uri, Duration::from_millis(200));
                assert!(answer.is_err(), "{answer:?}");
            }
        }
    }
}
