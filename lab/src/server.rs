//! A real server: nginx in a host of its own, with its own configuration, log and pages.
//!
//! Each page says who answered. What matters to the tests: the log has a line for each request that was answered, and
//! `accepted` counts connections as the server's kernel delivered them.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;
use crate::process::Process;
use crate::wait_until;

/// A running nginx. Dropping it ends it.
#[derive(Debug)]
pub struct Server {
    // Dropped first: nginx ends before its host goes.
    nginx: Process,
    /// What takes packets out of tunnels, where there are any.
    tunnels: Option<Process>,
    /// Where it runs.
    pub host: Host,
    /// Its own address (the RIP).
    pub address: String,
    /// How often [`Server::status`] was asked, each time on a connection of its own.
    asked: Cell<u64>,
}

/// One line of the access log: a request that was answered to the last byte or given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who asked, as the server saw it.
    pub client: String,
    /// The client's port.
    pub port: u16,
    /// The HTTP status.
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
    /// The number of the connection; requests on one connection share it.
    pub connection: u64,
    /// The path with its arguments.
    pub uri: String,
    /// Whether the response was sent in full.
    pub complete: bool,
}

impl Server {
    /// Starts nginx on ports 80 of every address of `host`, and on ports 81 for clients who begin with a header of the PROXY protocol,
    /// and waits until it answers.
    ///
    /// # Errors
    /// When nginx does not start; its error log is in the error.
    pub(crate) fn start(host: Host, address: &str) -> Result<Self> {
        let directory = host.directory().to_owned();
        let nginx = nginx(&host, address)?;
        let mut server =
            Self { nginx, tunnels: None, host, address: address.to_owned(), asked: Cell::new(0) };
        server.wait_for_answer().with_context(|| {
            let errors = fs::read_to_string(directory.join("error.log")).unwrap_or_default();
            format!("nginx on {} does not answer: {errors}{}", server.host.name(), server.nginx.log_tail())
        })?;
        Ok(server)
    }

    /// Makes it the end of tunnels of every kind; GUE at UDP port 6080. The commands are those of a server whose kernel has
    /// tunnels, but for the first one.
    ///
    /// # Errors
    /// When the program that takes packets out does not start.
    pub(crate) fn end_tunnels(&mut self) -> Result<()> {
        let program = crate::director::binary("decapsulate", "DECAPSULATE_BIN")?;
        let mut tunnels = self.host.start(self.host.command(program), "decapsulate")?;
        wait_until("the tunnels' end is there", Duration::from_secs(10), || {
            anyhow::ensure!(tunnels.ended()?.is_none(), "decapsulate has ended: {}", tunnels.log_tail());
            Ok(tunnels.log().contains("ready"))
        })?;
        self.host.ip("link set tun0 up")?;
        // The client's packets come by one interface, and its way back leads by another.
        for interface in ["all", "tun0"] {
            self.host.sysctl(&format!("net.ipv4.conf.{interface}.rp_filter"), "0")?;
        }
        self.tunnels = Some(tunnels);
        Ok(())
    }

    /// The bodies that were sent to `/upload`, each in a file.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn uploads(&self) -> Result<Vec<PathBuf>> {
        let directory = self.host.directory().join("client_body");
        let files =
            fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))?;
        files.map(|file| Ok(file?.path())).collect()
    }

    /// What the tunnels' end has said of packets that were wrong.
    pub fn tunnel_complaints(&self) -> Vec<String> {
        let log = self.tunnels.as_ref().map(Process::log).unwrap_or_default();
        log.lines().filter(|line| line.contains("is wrong")).map(str::to_owned).collect()
    }

    fn wait_for_answer(&mut self) -> Result<()> {
        wait_until("nginx answers on its own host", Duration::from_secs(10), || {
            anyhow::ensure!(self.nginx.ended()?.is_none(), "nginx has ended");
            Ok(self.status().is_ok())
        })
    }

    /// Puts a file of `megabytes` MB of random bytes under the path `/<name>`. Asked for with `?rate=<bytes a second>`, it is
    /// sent slowly.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put_random_file(&self, name: &str, megabytes: u32) -> Result<()> {
        let path = self.host.directory().join("pages").join(name);
        crate::process::run("sh", ["-c", &format!("head -c {megabytes}M /dev/urandom > {}", path.display())])
            .map(drop)
    }

    /// Puts the same file that another server has under the same path.
    ///
    /// # Errors
    /// When it cannot be copied.
    pub fn put_copy_of(&self, other: &Self, name: &str) -> Result<()> {
        let [from, to] = [other, self].map(|server| server.host.directory().join("pages").join(name));
        fs::hard_link(&from, &to)
            .with_context(|| format!("cannot link {} to {}", from.display(), to.display()))
    }

    /// The SHA-256 of a file it serves, in hexadecimal.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn sha256(&self, name: &str) -> Result<String> {
        let path = self.host.directory().join("pages").join(name);
        let line = crate::process::run("sha256sum", [&path])?;
        line.split_ascii_whitespace().next().map(str::to_owned).context("sha256sum said nothing")
    }

    /// Every request so far, as nginx logged it.
    ///
    /// # Errors
    /// When a line of the log is not what the configuration asks for.
    pub fn requests(&self) -> Result<Vec<Request>> {
        self.logged("access.log")
    }

    /// Every request so far at port 81, by the client that a header of the PROXY protocol has named.
    ///
    /// # Errors
    /// As [`Server::requests`].
    pub fn announced(&self) -> Result<Vec<Request>> {
        self.logged("announced.log")
    }

    fn logged(&self, name: &str) -> Result<Vec<Request>> {
        let log = fs::read_to_string(self.host.directory().join(name))
            .with_context(|| format!("nginx's {name}"))?;
        // The last line may still be in the writing.
        let whole = log.rfind('\n').map_or("", |end| &log[..end]);
        whole.lines().map(|line| parse(line).with_context(|| format!("nginx logged `{line}`"))).collect()
    }

    /// How many requests have been answered with status 200 and in full.
    ///
    /// # Errors
    /// As [`Server::requests`].
    pub fn answered(&self) -> Result<usize> {
        Ok(self.requests()?.iter().filter(|request| request.status == 200 && request.complete).count())
    }

    /// How many connections nginx has accepted from the lab, not counting those that asked for this very number.
    ///
    /// # Errors
    /// When nginx does not answer.
    pub fn accepted(&self) -> Result<u64> {
        // The third line: ` accepts handled requests`.
        let status = self.status()?;
        let numbers = status.lines().nth(2).context("no counters in nginx's status")?;
        let accepts: u64 =
            numbers.split_ascii_whitespace().next().context("no counter in nginx's status")?.parse()?;
        Ok(accepts - self.asked.get())
    }

    fn status(&self) -> Result<String> {
        let page = self.host.run("curl -sf --max-time 5 http://127.0.0.1:8080/")?;
        self.asked.set(self.asked.get() + 1);
        Ok(page)
    }

    /// Gives the server's interface another link-layer address and tells the neighbours, as a machine does that takes over.
    ///
    /// # Errors
    /// When the interface refuses.
    pub fn change_mac(&self, mac: &str) -> Result<()> {
        self.host.sysctl("net.ipv4.conf.eth0.arp_notify", "1")?;
        self.host.ip(&format!("link set eth0 address {mac}")).map(drop)
    }
}

/// Starts nginx alone, with the same pages, on a host that is no real server of the lab's: director's.
///
/// # Errors
/// When it cannot be started.
pub fn nginx(host: &Host, address: &str) -> Result<Process> {
    let directory = host.directory();
    let pages = directory.join("pages");
    fs::create_dir(&pages).with_context(|| format!("cannot make {}", pages.display()))?;
    fs::write(pages.join("index.html"), format!("this is {} at {address}\n", host.name()))?;
    let file = directory.join("nginx.conf");
    fs::write(&file, configuration(&directory.display().to_string()))?;
    host.spawn(&format!("nginx -e {0}/error.log -p {0} -c {1}", directory.display(), file.display()))
}

fn configuration(directory: &str) -> String {
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {directory}/{name};\n"))
        .concat();
    format!(
        r#"daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
{temporary}
    sendfile on;
    keepalive_timeout 300s;
    keepalive_requests 1000000;
    client_header_timeout 300s;
    default_type text/plain;
    log_format lab '$remote_addr $remote_port $status $body_bytes_sent $connection $request_uri $request_completion';
    log_format announced '$proxy_protocol_addr $proxy_protocol_port $status $body_bytes_sent $connection $request_uri $request_completion';
    server {{
        listen 80 backlog=4096;
        listen [::]:80 backlog=4096;
        access_log {directory}/access.log lab;
        root {directory}/pages;
        limit_rate $arg_rate;
        location = /upload {{
            client_max_body_size 100m;
            client_body_in_file_only on;
            proxy_pass http://127.0.0.1:8080/thanks;
        }}
    }}
    server {{
        listen 81 proxy_protocol;
        listen [::]:81 proxy_protocol;
        access_log {directory}/announced.log announced;
        root {directory}/pages;
        location = /upload {{
            client_max_body_size 100m;
            client_body_in_file_only on;
            proxy_pass http://127.0.0.1:8080/thanks;
        }}
    }}
    server {{
        listen 127.0.0.1:8080;
        access_log off;
        client_max_body_size 100m;
        location / {{ stub_status; }}
        location = /thanks {{ return 204; }}
    }}
}}
"#
    )
}

fn parse(line: &str) -> Option<Request> {
    let mut words = line.split(' ');
    Some(Request {
        client: words.next()?.to_owned(),
        port: words.next()?.parse().ok()?,
        status: words.next()?.parse().ok()?,
        bytes: words.next()?.parse().ok()?,
        connection: words.next()?.parse().ok()?,
        uri: words.next()?.to_owned(),
        complete: words.next() == Some("OK"),
    })
}

#[cfg(test)]
mod tests {
    use super::{Request, parse};

    #[test]
    fn a_log_line_is_a_request() {
        let request = |bytes, complete| Request {
            client: "198.51.100.100".into(),
            port: 40000,
            status: 200,
            bytes,
            connection: 7,
            uri: "/big?rate=1m".into(),
            complete,
        };
        assert_eq!(parse("198.51.100.100 40000 200 22 7 /big?rate=1m OK"), Some(request(22, true)));
        assert_eq!(parse("198.51.100.100 40000 200 3 7 /big?rate=1m "), Some(request(3, false)));
        assert_eq!(parse("nonsense"), None);
    }
}
