//! Browsers: where nobody is asked who they are, a page of another site must not call on behalf of whoever looks at it.
//!
//! A page may post to this machine without asking, and after it has its own name point here (DNS rebinding) it may read as well.
//! Invariant: programs that are no browsers send none of these headers, and call by an address or a name without dots.

use http::header;
use http::request::Parts;
use mindos_proto::rpc::Status;

use super::refusal;

/// Refuses what a page of another site sends.
pub(super) fn check_origin(request: &Parts) -> Result<(), Status> {
    let text = |name: &str| request.headers.get(name).map(|value| value.to_str().unwrap_or("malformed"));
    if text("sec-fetch-site").is_some_and(|site| !["same-origin", "none"].contains(&site)) {
        return Err(refusal::browser("sec-fetch-site: is not `same-origin` or `none`"));
    }
    let Some(origin) = text("origin") else { return Ok(()) };
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    if authority.is_some() && authority == host(request) {
        return Ok(());
    }
    Err(refusal::browser("origin: is another one"))
}

/// Refuses a name with dots that this server does not go by.
pub(super) fn check_host(request: &Parts, names: &[String]) -> Result<(), Status> {
    let Some(host) = host(request) else { return Ok(()) };
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let is_address = name.parse::<std::net::IpAddr>().is_ok();
    if is_address || !name.contains('.') || name.ends_with(".localhost") || names.iter().any(|own| *own == name) {
        return Ok(());
    }
    Err(refusal::browser("host: is no address, no `localhost` and no name of --tls-names"))
}

fn host(request: &Parts) -> Option<&str> {
    let named = request.uri.authority().map(http::uri::Authority::as_str);
    named.or_else(|| request.headers.get(header::HOST).map(|value| value.to_str().unwrap_or("malformed.invalid")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::get("/status");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_page_of_another_site_is_refused() {
        let own = ("host", "127.0.0.1:8090");
        for headers in [&[own][..], &[own, ("origin", "http://127.0.0.1:8090")], &[own, ("sec-fetch-site", "none")]] {
            assert!(check_origin(&request(headers)).is_ok(), "{headers:?}");
        }
        for headers in [
            &[own, ("origin", "https://evil.example")][..],
            &[own, ("origin", "null")],
            &[own, ("sec-fetch-site", "cross-site")],
            &[("origin", "http://127.0.0.1:8090")],
        ] {
            assert!(check_origin(&request(headers)).is_err(), "{headers:?}");
        }
    }

    #[test]
    fn a_name_that_somebody_else_has_pointed_here_is_refused() {
        let names = ["mindos.example".to_owned()];
        for host in ["localhost:8090", "127.0.0.1", "[::1]:8090", "x", "a.localhost", "Mindos.Example:8090"] {
            assert!(check_host(&request(&[("host", host)]), &names).is_ok(), "{host}");
        }
        for host in ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "localhost.evil.example."] {
            assert!(check_host(&request(&[("host", host)]), &names).is_err(), "{host}");
        }
    }
}
