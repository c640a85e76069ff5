//! Hosts of private networks: which of them requests may go to.
//!
//! A URL that somebody else has written (a manifest's row, a redirect) must not reach what only this machine can reach: itself, its
//! neighbours, the metadata service of its cloud. In: `limits.allow_private_hosts`. Out: a check of a URL before it is requested, and a
//! resolver that gives the HTTP client no address that it may not connect to, so that the address which was checked is the
//! one that is used, whatever a name leads to a moment later. Never here: requests.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use super::addresses::{embedded, is_public};
use super::environment::variable;
use super::location::Location;

/// Environment variables that name the proxy of requests.
const PROXIES: [&str; 6] = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];

/// This machine.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// The hosts of private networks that may be read from, `limits.allow_private_hosts`: names, addresses and networks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrivateHosts {
    /// In lower case, without a dot at the end.
    names: BTreeSet<String>,
    networks: Vec<IpNet>,
}

impl PrivateHosts {
    /// What [`PrivateHosts::add`] takes, for messages.
    pub const EXPECTED: &str = "the name of a host, an IP address, or a network such as 10.1.0.0/16";

    /// Adds a host name, an address or a network; false if `text` is none of them.
    #[must_use]
    pub fn add(&mut self, text: &str) -> bool {
        if let Ok(network) = text.parse::<IpNet>() {
            self.networks.push(network.trunc());
            return true;
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            self.networks.push(address.into());
            return true;
        }
        match Host::parse(text) {
            // Such as a name with an asterisk, which would match nothing.
            Ok(Host::Domain(name)) if !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) => {
                return false;
            }
            Ok(Host::Domain(name)) => drop(self.names.insert(plain(&name).to_owned())),
            Ok(Host::Ipv4(address)) => self.networks.push(IpAddr::from(address).into()),
            Ok(Host::Ipv6(address)) => self.networks.push(IpAddr::from(address).into()),
            Err(_) => return false,
        }
        true
    }

    /// Adds the hosts of those `roots` that name an address, or this machine: that is as clear as naming the host itself. A root's
    /// name that leads to a private address is not enough.
    #[must_use]
    pub fn with_addresses_of(mut self, roots: &[Location]) -> Self {
        for root in roots {
            let Location::Http(url) = root else { continue };
            match url.host() {
                Some(Host::Domain(name)) if !is_this_machine(plain(name)) => {}
                Some(host) => drop(self.add(&host.to_string())),
                None => {}
            }
        }
        self
    }

    /// As texts that [`PrivateHosts::add`] takes.
    #[must_use]
    pub fn to_records(&self) -> Vec<String> {
        self.names.iter().cloned().chain(self.networks.iter().map(IpNet::to_string)).collect()
    }

    fn has_name(&self, name: &str) -> bool {
        self.names.contains(plain(name))
    }

    fn allows(&self, address: IpAddr) -> bool {
        let inner = embedded(address).map(IpAddr::from);
        let is_named = |address: &IpAddr| self.networks.iter().any(|network| network.contains(address));
        is_public(address) || is_named(&address) || inner.as_ref().is_some_and(is_named)
    }
}

/// A host that is not requested, or a name that leads to such a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{host} is this machine or one of a private network, and only those that `limits.allow_private_hosts` names are requested"
)]
pub(super) struct PrivateHost {
    /// Its name or address.
    host: String,
}

impl PrivateHost {
    fn new(host: &str) -> Self {
        const MAX_SHOWN: usize = 100;
        Self { host: host.chars().take(MAX_SHOWN).collect() }
    }
}

/// Keeps requests away from hosts of private networks.
#[derive(Debug, Clone)]
pub(super) struct Guard {
    allowed: Arc<PrivateHosts>,
    /// Hosts that the environment names as proxies: connections go to them, whatever is requested.
    proxies: Arc<BTreeSet<String>>,
}

impl Guard {
    pub(super) fn new(allowed: PrivateHosts) -> Self {
        // As in the HTTP client: without a scheme it is a host and a port.
        let url =
            |text: String| Url::parse(&text).ok().filter(Url::has_host).or(Url::parse(&format!("http://{text}")).ok());
        let hosts = PROXIES.iter().filter_map(|name| variable(name)).filter_map(url);
        let proxies = hosts.filter_map(|url| url.domain().map(|name| plain(name).to_owned())).collect();
        Self { allowed: Arc::new(allowed), proxies: Arc::new(proxies) }
    }

    /// Checks what the URL alone tells. A name is checked by [`Guard::resolve`] when it is connected to, unless a proxy connects.
    ///
    /// # Errors
    /// [`PrivateHost`].
    pub(super) fn check(&self, url: &Url) -> Result<(), PrivateHost> {
        let is_allowed = match url.host() {
            Some(Host::Ipv4(address)) => self.allowed.allows(address.into()),
            Some(Host::Ipv6(address)) => self.allowed.allows(address.into()),
            // A proxy's name is resolved without a check, so nothing else may be requested by it.
            Some(Host::Domain(name)) => {
                let name = plain(name);
                let here = || LOOPBACK.into_iter().any(|address| self.allowed.allows(address));
                self.allowed.has_name(name) || (!self.proxies.contains(name) && (!is_this_machine(name) || here()))
            }
            None => false,
        };
        if is_allowed { Ok(()) } else { Err(PrivateHost::new(url.host_str().unwrap_or_default())) }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (guard, name) = (self.clone(), name.as_str().to_owned());
        Box::pin(async move {
            let asked = name.clone();
            let found = tokio::task::spawn_blocking(move || (asked.as_str(), 0).to_socket_addrs());
            let found: Vec<SocketAddr> = found.await??.collect();
            if guard.allowed.has_name(&name) || guard.proxies.contains(plain(&name)) {
                return Ok(Box::new(found.into_iter()) as Addrs);
            }
            let usable: Vec<SocketAddr> =
                found.iter().copied().filter(|address| guard.allowed.allows(address.ip())).collect();
            if usable.is_empty() && !found.is_empty() {
                return Err(PrivateHost::new(&name).into());
            }
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// A host name without the dot of the DNS root.
fn plain(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Whether every resolver, that of a proxy included, takes the name for itself (RFC 6761).
fn is_this_machine(name: &str) -> bool {
    name.rsplit('.').next() == Some("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(texts: &[&str]) -> PrivateHosts {
        let mut hosts = PrivateHosts::default();
        assert!(texts.iter().all(|text| hosts.add(text)), "{texts:?}");
        hosts
    }

    fn guard(allowed: PrivateHosts, proxies: &[&str]) -> Guard {
        Guard { allowed: Arc::new(allowed), proxies: Arc::new(proxies.iter().map(|&name| name.to_owned()).collect()) }
    }

    fn passes(guard: &Guard, url: &str) -> bool {
        guard.check(&url.parse().unwrap()).is_ok()
    }

    #[test]
    fn hosts_as_a_job_names_them() {
        let allowed =
            hosts(&["Images.Example.", "10.0.0.5", "[fd00::1]", "fd00:1::/32", "192.168.7.9/16", "2130706433"]);
        for named in ["10.0.0.5", "fd00::1", "fd00:1:2::3", "192.168.0.1", "127.0.0.1", "::ffff:10.0.0.5", "1.1.1.1"] {
            assert!(allowed.allows(named.parse().unwrap()), "{named}");
        }
        for other in ["10.0.0.6", "fd00::2", "192.169.0.1.".trim_end_matches('.'), "127.0.0.2", "::1"] {
            let other: IpAddr = other.parse().unwrap();
            assert_eq!(allowed.allows(other), is_public(other), "{other}");
        }
        let records = allowed.to_records();
        assert_eq!(hosts(&records.iter().map(String::as_str).collect::<Vec<_>>()), allowed, "{records:?}");
        assert!(
            allowed.has_name("images.example")
                && allowed.has_name("images.example.")
                && !allowed.has_name("a.images.example")
        );
        for wrong in
            ["", " ", "host:80", "http://host", "host/path", "10.0.0.0/33", "*.example", "me@host", "300.1.1.1"]
        {
            assert!(!PrivateHosts::default().add(wrong), "{wrong}");
        }
    }

    #[test]
    fn no_spelling_of_an_address_passes() {
        let none = guard(PrivateHosts::default(), &[]);
        let only = guard(hosts(&["127.0.0.1"]), &[]);
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://017700000001/",
            "http://127.1/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://127.0.0%2e1/",
            "http://127\u{3002}0\u{3002}0\u{3002}1/",
            "http://\u{ff11}27.0.0.1/",
            "http://\u{2460}27.0.0.1/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[64:ff9b::127.0.0.1]/",
            "http://public.example@127.0.0.1/",
            "http:\\\\127.0.0.1\\",
        ] {
            assert!(!passes(&none, url), "{url}");
            assert!(passes(&only, url), "{url}");
        }
        for url in
            ["http://0/", "http://0.0.0.0/", "http://[::]/", "http://[::1]/", "http://127.0.0.2/", "http://[fe80::1]/"]
        {
            assert!(!passes(&none, url) && !passes(&only, url), "{url}");
        }
        for url in ["http://localhost/", "http://LOCALHOST./", "http://a.localhost/"] {
            assert!(!passes(&none, url), "{url}");
            assert!(passes(&only, url), "the resolver decides about {url}");
        }
        for url in
            ["http://1.1.1.1/", "https://public.example/", "http://127.0.0.1.example/", "http://localhost.example/"]
        {
            assert!(passes(&none, url), "{url}");
        }
    }

    #[test]
    fn roots_that_are_addresses_name_their_hosts() {
        let root = |text: &str| Location::Local("/".into()).resolve(text).unwrap();
        let roots =
            ["http://10.0.0.5/images", "http://localhost:8000", "http://images.example", "s3://bucket", "/data"];
        let guard = guard(PrivateHosts::default().with_addresses_of(&roots.map(root)), &[]);
        assert!(passes(&guard, "http://10.0.0.5/") && passes(&guard, "http://localhost/"));
        assert!(!passes(&guard, "http://10.0.0.6/") && !guard.allowed.has_name("images.example"));
    }

    #[tokio::test]
    async fn names_give_only_addresses_that_may_be_used() {
        let resolved = async |guard: &Guard, name: &str| match guard.resolve(name.parse().unwrap()).await {
            Ok(addresses) => Ok(addresses.map(|address| address.ip()).collect::<Vec<_>>()),
            Err(error) => Err(error.to_string()),
        };
        let none = guard(PrivateHosts::default(), &[]);
        let refused = resolved(&none, "localhost").await.unwrap_err();
        assert!(refused.starts_with("localhost is this machine or one of a private network"), "{refused}");
        let one = resolved(&guard(hosts(&["127.0.0.0/8"]), &[]), "localhost").await.unwrap();
        assert!(!one.is_empty() && one.iter().all(IpAddr::is_ipv4), "not the other address of the name: {one:?}");
        for named in [guard(hosts(&["localhost"]), &[]), guard(PrivateHosts::default(), &["localhost"])] {
            assert!(!resolved(&named, "localhost").await.unwrap().is_empty());
        }
        assert!(!passes(&guard(PrivateHosts::default(), &["proxy.example"]), "http://proxy.example:22/"));
    }
}
