//! A small web server on loopback that answers by path and keeps the requests it was sent.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query.
    pub target: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

type Answer = (u16, Vec<(&'static str, String)>, Vec<u8>);

/// A running server; its threads end with the process.
#[derive(Clone)]
pub struct WebServer {
    address: SocketAddr,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl WebServer {
    pub fn start() -> Self {
        Self::start_at("127.0.0.1")
    }

    /// At another address of loopback.
    pub fn start_at(address: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Self { address, answers: Arc::default(), requests: Arc::default() };
        let serving = server.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = serving.clone();
                // A client may go away at any time.
                std::thread::spawn(move || drop(server.serve(client)));
            }
        });
        server
    }

    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `host:port`.
    pub fn authority(&self) -> String {
        self.address.to_string()
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Answers requests for `path`, whatever their query, with `status` and `body`.
    pub fn answer(&self, path: &str, status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> &Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.answers.lock().unwrap().insert(path.to_owned(), (status, headers, body.to_vec()));
        self
    }

    /// Redirects requests for `path` to the address `to`.
    pub fn redirect(&self, path: &str, status: u16, to: &str) -> &Self {
        self.answer(path, status, &[("Location", to)], b"moved")
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The targets that were asked for, once each, sorted.
    pub fn targets(&self) -> Vec<String> {
        let mut targets: Vec<String> = self.requests().into_iter().map(|request| request.target).collect();
        targets.sort();
        targets.dedup();
        targets
    }

    fn serve(&self, mut client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let mut words = lines[0].split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap(), words.next().unwrap());
        let split =
            |line: &String| line.split_once(':').map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()));
        let request = Request { method, target, headers: lines[1..].iter().filter_map(split).collect() };
        let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        reader.read_exact(&mut vec![0; length])?;
        let path = request.target.split('?').next().unwrap().to_owned();
        let is_head = request.method == "HEAD";
        self.requests.lock().unwrap().push(request);
        let answer = self.answers.lock().unwrap().get(&path).cloned();
        let (status, headers, body) = answer.unwrap_or((404, Vec::new(), b"nothing here".to_vec()));
        let headers: String = headers.iter().flat_map(|(name, value)| [*name, ": ", value, "\r\n"]).collect();
        let length = body.len();
        write!(client, "HTTP/1.1 {status} Status\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n")?;
        if is_head { Ok(()) } else { client.write_all(&body) }
    }
}
