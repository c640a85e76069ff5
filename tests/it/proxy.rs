//! A TCP proxy in front of a real HTTP server that injects a bounded number of faults.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How a response is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing for so many milliseconds, then the whole answer.
    SlowFirstByte(u64),
    /// Half of the body, then nothing for so many milliseconds.
    Stall(u64),
    /// Another status with an S3 error of this name; the server never hears of the request.
    Status(u16, &'static str),
    /// Half of the body, then a reset.
    Reset,
    /// Half of the body, then the orderly end of the connection.
    Truncate,
    /// A `Content-Length` one larger than the body.
    WrongLength,
    /// The request is carried out and the connection closed without an answer.
    LostAnswer,
    /// The server does not see this header of the request.
    WithoutHeader(&'static str),
}

struct Rule {
    method: &'static str,
    path_part: String,
    fault: Fault,
    left: usize,
}

/// A running proxy; its threads end with the process.
pub struct Proxy {
    port: u16,
    rules: Arc<Mutex<Vec<Rule>>>,
}

impl Proxy {
    /// Before the server at `port` of this machine.
    pub fn before(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let rules: Arc<Mutex<Vec<Rule>>> = Arc::default();
        let proxy = Self { port: listener.local_addr().unwrap().port(), rules: rules.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let rules = rules.clone();
                // A connection that breaks is what this is about.
                std::thread::spawn(move || drop(serve(client, port, &rules)));
            }
        });
        proxy
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Injects the fault into the next `times` requests with this method whose path has `path_part` in it.
    pub fn spoil(&self, method: &'static str, path_part: &str, fault: Fault, times: usize) {
        self.rules.lock().unwrap().push(Rule { method, path_part: path_part.to_owned(), fault, left: times });
    }

    /// How many faults were not met.
    pub fn left(&self) -> usize {
        self.rules.lock().unwrap().iter().map(|rule| rule.left).sum()
    }
}

struct Message {
    head: Vec<String>,
    body: Vec<u8>,
}

impl Message {
    /// Reads a request or an answer whose body has a known length, or is chunked. None: the connection has ended.
    fn read(from: &mut impl BufRead, has_body: bool) -> std::io::Result<Option<Self>> {
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let line = line.trim_end().to_owned();
            if line.is_empty() {
                break;
            }
            head.push(line);
        }
        let mut message = Self { head, body: Vec::new() };
        let chunked = message.header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
        if has_body && chunked {
            loop {
                let mut line = String::new();
                from.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim().split(';').next().unwrap(), 16).unwrap_or(0);
                let mut chunk = vec![0; size + 2];
                from.read_exact(&mut chunk)?;
                message.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
            message.head.retain(|line| !line.to_ascii_lowercase().starts_with("transfer-encoding:"));
            message.head.push(format!("Content-Length: {}", message.body.len()));
        } else if has_body {
            let length = message.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
            message.body = vec![0; length];
            from.read_exact(&mut message.body)?;
        }
        Ok(Some(message))
    }

    fn header(&self, name: &str) -> Option<&str> {
        let named = |line: &&String| line.split(':').next().is_some_and(|found| found.eq_ignore_ascii_case(name));
        self.head[1..].iter().find(named).map(|line| line.split_once(':').unwrap().1.trim())
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = (self.head.join("\r\n") + "\r\n\r\n").into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn serve(mut client: TcpStream, port: u16, rules: &Mutex<Vec<Rule>>) -> std::io::Result<()> {
    let mut requests = BufReader::new(client.try_clone()?);
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    let mut answers = BufReader::new(server.try_clone()?);
    while let Some(mut request) = Message::read(&mut requests, true)? {
        let line = request.head[0].clone();
        let (method, path) = line.split_once(' ').unwrap();
        let fault = {
            let mut rules = rules.lock().unwrap();
            let rule =
                rules.iter_mut().find(|rule| rule.left > 0 && rule.method == method && path.contains(&rule.path_part));
            rule.map(|rule| {
                rule.left -= 1;
                rule.fault
            })
        };
        if let Some(Fault::Status(status, code)) = fault {
            let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>");
            write!(client, "HTTP/1.1 {status} No\r\nContent-Length: {}\r\n\r\n{body}", body.len())?;
            continue;
        }
        if let Some(Fault::WithoutHeader(name)) = fault {
            request.head.retain(|line| !line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        }
        server.write_all(&request.bytes())?;
        let Some(mut answer) = Message::read(&mut answers, method != "HEAD")? else { return Ok(()) };
        let half = answer.bytes().len() - answer.body.len().div_ceil(2);
        match fault {
            None | Some(Fault::Status(..) | Fault::WithoutHeader(_)) => client.write_all(&answer.bytes())?,
            Some(Fault::SlowFirstByte(ms)) => {
                std::thread::sleep(Duration::from_millis(ms));
                client.write_all(&answer.bytes())?;
            }
            Some(Fault::Stall(ms)) => {
                client.write_all(&answer.bytes()[..half])?;
                std::thread::sleep(Duration::from_millis(ms));
                return Ok(());
            }
            Some(Fault::Reset) => {
                client.write_all(&answer.bytes()[..half])?;
                client.flush()?;
                // Unread bytes of the client at closing make a reset; so does shutting down both ways here.
                return client.shutdown(Shutdown::Both);
            }
            Some(Fault::Truncate) => {
                client.write_all(&answer.bytes()[..half])?;
                return client.shutdown(Shutdown::Write);
            }
            Some(Fault::WrongLength) => {
                let length = answer.body.len() + 1;
                answer.head.retain(|line| !line.to_ascii_lowercase().starts_with("content-length:"));
                answer.head.push(format!("Content-Length: {length}"));
                client.write_all(&answer.bytes())?;
                return client.shutdown(Shutdown::Write);
            }
            Some(Fault::LostAnswer) => return client.shutdown(Shutdown::Both),
        }
    }
    Ok(())
}
