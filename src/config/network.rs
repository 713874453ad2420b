//! How feeds get to their servers: `--proxy`, `--bind`, `--family`, and the environment's proxies.
//!
//! Owns checking these, and which variable of the environment counts, as with curl. The environment
//! is read here, once; what comes out is data.

use std::net::IpAddr;

use super::mistakes::Mistakes;
use super::secrets;
use crate::feed::proxy::{Exceptions, Proxies, Proxy};
use crate::feed::text::Text;
use crate::feed::transport::Origin;

/// The proxies that were asked for, else those of the environment.
pub(super) fn check_proxies(proxy: Option<&str>, mistakes: &mut Mistakes) -> Proxies {
    match proxy {
        Some("none") => Proxies::default(),
        Some(url) => match secrets::expand(url).and_then(|text| Proxy::parse(&text)) {
            Ok(proxy) => Proxies::always(proxy),
            Err(mistake) => {
                mistakes.about("--proxy", &format!("{mistake}, or none"));
                Proxies::default()
            }
        },
        None => from_environment(|name| std::env::var(name).ok(), mistakes),
    }
}

/// `HTTP_PROXY` in capitals is left out, as with curl: for a CGI program it is a header of the
/// request.
fn from_environment(variable: impl Fn(&str) -> Option<String>, mistakes: &mut Mistakes) -> Proxies {
    let first = |names: &[&str]| {
        names.iter().find_map(|name| {
            let value = variable(name).filter(|value| !value.is_empty())?;
            Some(((*name).to_string(), value))
        })
    };
    let mut proxy = |names: &[&str]| {
        let (name, url) = first(names)?;
        match Proxy::parse(&Text::plain(&url)) {
            Ok(proxy) => Some(proxy),
            Err(mistake) => {
                mistakes.say(format!("${name} in the environment: {mistake}, or --proxy none"));
                None
            }
        }
    };
    let plain = proxy(&["http_proxy", "all_proxy", "ALL_PROXY"]);
    let secure = proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]);
    let except = first(&["no_proxy", "NO_PROXY"]).map(|(_, list)| Exceptions::parse(&list));
    Proxies { plain, secure, except: except.unwrap_or_default() }
}

/// Where connections come from.
pub(super) fn check_origin(bind: Option<&str>, family: &str, mistakes: &mut Mistakes) -> Origin {
    let family_of = |address: &IpAddr| if address.is_ipv4() { "ipv4" } else { "ipv6" };
    let wanted = match family {
        "any" => Origin::Any,
        "ipv4" => Origin::Family { v4: true },
        "ipv6" => Origin::Family { v4: false },
        other => {
            mistakes.add("--family", other, "must be any, ipv4 or ipv6");
            Origin::Any
        }
    };
    let Some(bind) = bind else {
        return wanted;
    };
    match bind.parse::<IpAddr>() {
        Ok(address) => {
            if wanted != Origin::Any && family != family_of(&address) {
                mistakes.add("--bind", bind, &format!("is not of --family {family}"));
            }
            Origin::Address(address)
        }
        Err(_) => {
            mistakes.add("--bind", bind, "must be an IP address of this machine, without a port");
            wanted
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_read_as_curl_reads_it() {
        let check = |variables: &[(&str, &str)], plain: Option<&str>, secure: Option<&str>| {
            let mut mistakes = Mistakes::default();
            let value = |name: &str| {
                let found = variables.iter().find(|(own, _)| *own == name);
                found.map(|(_, value)| value.to_string())
            };
            let proxies = from_environment(value, &mut mistakes);
            let shown = [proxies.plain, proxies.secure].map(|p| p.map(|p| p.to_string()));
            let expected = [plain, secure].map(|p| p.map(str::to_string));
            assert_eq!(shown, expected, "{variables:?}: {mistakes:?}");
            mistakes.into_result(()).err().unwrap_or_default()
        };
        check(&[], None, None);
        check(&[("http_proxy", "http://a:1")], Some("a:1"), None);
        check(&[("HTTP_PROXY", "http://a:1")], None, None);
        check(&[("https_proxy", "a:1"), ("HTTPS_PROXY", "b:1")], None, Some("a:1"));
        check(&[("https_proxy", ""), ("HTTPS_PROXY", "b:1")], None, Some("b:1"));
        check(&[("all_proxy", "socks5://c")], Some("c:1080"), Some("c:1080"));
        check(&[("ALL_PROXY", "socks5://c"), ("https_proxy", "a:1")], Some("c:1080"), Some("a:1"));
        let mistakes = check(&[("HTTPS_PROXY", "https://me:secret@b:1")], None, None);
        assert!(mistakes[0].contains("$HTTPS_PROXY") && !mistakes[0].contains("secret"));
    }

    #[test]
    fn options_are_checked() {
        let mut mistakes = Mistakes::default();
        assert_eq!(check_proxies(Some("none"), &mut mistakes), Proxies::default());
        let proxies = check_proxies(Some("http://me:pw@p:1"), &mut mistakes);
        assert_eq!(proxies.plain, proxies.secure);
        assert_eq!(check_origin(None, "ipv6", &mut mistakes), Origin::Family { v4: false });
        let loopback = "127.0.0.1".parse().unwrap();
        let bound = check_origin(Some("127.0.0.1"), "ipv4", &mut mistakes);
        assert_eq!(bound, Origin::Address(loopback));
        assert_eq!(mistakes.into_result(()), Ok(()));
        let mut mistakes = Mistakes::default();
        check_proxies(Some("http://me:secret@p"), &mut mistakes);
        check_origin(Some("127.0.0.1"), "ipv6", &mut mistakes);
        check_origin(Some("127.0.0.1:80"), "ipv5", &mut mistakes);
        let found = mistakes.into_result(()).unwrap_err().join("\n");
        for quoted in ["--proxy", "me:***@p", "--family ipv6", "'ipv5'", "'127.0.0.1:80'"] {
            assert!(found.contains(quoted), "{quoted}: {found}");
        }
        assert!(!found.contains("secret"), "{found}");
    }
}
