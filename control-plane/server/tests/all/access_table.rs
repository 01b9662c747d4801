//! The whole table: every RPC and path, with every role, scope and kind of credential. Only what the table of permissions allows passes.
//!
//! What passes is written to `tests/results/access-table.txt` and compared with what stands there; `UPDATE=1` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::support::jwt::{public, signed};
use crate::support::raw::Raw;
use crate::support::{Directory, Running};
use bytes::Bytes;
use http::uri::PathAndQuery;
use mindos_control_plane::access::Roles;
use mindos_control_plane::access::permission::{Listener, PATHS, Permission, RPCS, Right};
use mindos_proto::access::v1 as access;
use mindos_proto::access::v1::access_service_client::AccessServiceClient;
use mindos_proto::rpc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const SECRET: &str = "the secret of the webhook";
/// Longer than any answer takes; only a test that fails waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is sent along with a request.
#[derive(Clone, Debug, Default)]
struct Credential {
    token: Option<String>,
    tenant: Option<&'static str>,
}

/// Why a request was not let in; `None` where it was, whatever came of it.
fn turned_away(code: Code, reason: &str) -> Option<String> {
    let by_gate =
        reason.starts_with("UNAUTHENTICATED") || ["PERMISSION_DENIED", "TENANT_WITHOUT_ROLE"].contains(&reason);
    by_gate.then(|| format!("{code:?} {reason}"))
}

async fn call(channel: &Channel, name: &str, credential: &Credential) -> Option<String> {
    loop {
        match call_once(channel, name, credential).await {
            Ok(answered) => return answered,
            // The connection ended, since so many were refused on it; the channel dials again.
            Err(status) => assert!(
                [Code::Unavailable, Code::Unknown, Code::Cancelled].contains(&status.code()),
                "{name}: {status}"
            ),
        }
    }
}

/// The answer, or why there is none.
async fn call_once(channel: &Channel, name: &str, credential: &Credential) -> Result<Option<String>, Status> {
    let mut request = Request::new(tokio_stream::iter([Bytes::new()]));
    if let Some(token) = &credential.token {
        let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    if let Some(tenant) = credential.tenant {
        request.metadata_mut().insert("mindos-tenant", tenant.parse().unwrap());
    }
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path: PathAndQuery = format!("/{name}").parse().unwrap();
    let answer = tokio::time::timeout(PATIENCE, client.streaming(request, path, Raw)).await;
    match answer.unwrap_or_else(|_| panic!("{name} was not answered")) {
        Ok(_) => Ok(None),
        // Not said by the server.
        Err(status) if std::error::Error::source(&status).is_some() => Err(status),
        Err(status) => {
            let reason = rpc::Status::from(&status).detail::<rpc::ErrorInfo>().map(|info| info.reason);
            Ok(turned_away(status.code(), &reason.unwrap_or_default()))
        }
    }
}

async fn ask(at: std::net::SocketAddr, method: &str, path: &str, credential: &Credential) -> (u16, Option<String>) {
    let path = path.replace("{cluster}", "c1").replace("{name}", "g1").replace("{task}", "1");
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    if let Some(token) = &credential.token {
        let _ = write!(head, "authorization: Bearer {token}\r\n");
    }
    if let Some(tenant) = credential.tenant {
        let _ = write!(head, "mindos-tenant: {tenant}\r\n");
    }
    if method != "GET" {
        let _ = write!(head, "content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}");
    } else {
        head.push_str("\r\n");
    }
    let mut stream = tokio::net::TcpStream::connect(at).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    let code: u16 = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    let details = body["error"]["details"].as_array().cloned().unwrap_or_default();
    let reason = details.iter().find_map(|detail| detail["reason"].as_str()).unwrap_or_default().to_owned();
    let grpc = if code == 401 { Code::Unauthenticated } else { Code::PermissionDenied };
    (code, if [401, 403].contains(&code) { turned_away(grpc, &reason) } else { None })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Where {
    Own,
    Plane,
}

const ROLES: [(Roles, access::Role, &str); 4] = [
    (Roles::VIEWER, access::Role::Viewer, "viewer"),
    (Roles::PUBLISHER, access::Role::Publisher, "publisher"),
    (Roles::OPERATOR, access::Role::Operator, "operator"),
    (Roles::ADMIN, access::Role::Admin, "admin"),
];
const KINDS: [&str; 12] = [
    "none",
    "wrong",
    "expired",
    "revoked",
    "other tenant's",
    "right",
    "wrong JWT",
    "expired JWT",
    "JWT for others",
    "JWT without a role",
    "other tenant's JWT",
    "right JWT",
];

/// Whether the caller is known by it, and whether it holds where the call is made.
fn is_known(kind: &str) -> bool {
    ["right", "right JWT", "JWT without a role"].contains(&kind)
}

fn holds(kind: &str) -> bool {
    ["right", "right JWT"].contains(&kind)
}

/// What the table says, in words of its own: the role is among those of the right, and holds where it has to.
fn allows(right: &Right, role: Roles, at: Where) -> bool {
    let has_role = role == Roles::ADMIN || right.roles.has_any(role);
    has_role && (at == Where::Plane || !right.plane)
}

fn expected(permission: Permission, kind: &str, role: Roles, at: Where) -> bool {
    match permission {
        Permission::Public | Permission::Webhook | Permission::Surface(_) => true,
        Permission::Anyone => is_known(kind),
        Permission::Agent => false,
        Permission::Needs(right) => holds(kind) && allows(right, role, at),
    }
}

struct Tokens {
    client: AccessServiceClient<Channel>,
    admin: String,
}

impl Tokens {
    async fn make(&mut self, tenant: &str, role: access::Role, ttl: Option<i64>) -> (u64, String) {
        let mut request = Request::new(access::CreateApiTokenRequest {
            name: "table".to_owned(),
            tenant: tenant.to_owned(),
            roles: vec![role.into()],
            sources: Vec::new(),
            ttl: ttl.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
        });
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.admin).parse().unwrap());
        let made = self.client.create_api_token(request).await.unwrap().into_inner();
        (made.token.unwrap().id, made.text)
    }

    /// A role for all of a group.
    async fn bind(&mut self, group: &str, tenant: &str, role: access::Role) {
        let binding = access::Binding {
            tenant: tenant.to_owned(),
            subject: Some(access::binding::Subject::Group(group.to_owned())),
            role: role.into(),
            sources: Vec::new(),
        };
        let mut request = Request::new(access::BindRoleRequest { binding: Some(binding) });
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.admin).parse().unwrap());
        self.client.bind_role(request).await.unwrap();
    }

    async fn revoke(&mut self, id: u64) {
        let mut request = Request::new(access::RevokeApiTokenRequest { id });
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.admin).parse().unwrap());
        self.client.revoke_api_token(request).await.unwrap();
    }
}

/// An identity provider whose groups have a role each.
struct Provider {
    key: rcgen::KeyPair,
    url: String,
}

impl Provider {
    /// Answers every request with its keys.
    async fn start() -> Provider {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let key = rcgen::KeyPair::generate().unwrap();
        let body = serde_json::json!({ "keys": [public(&key)] }).to_string();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        Provider { key, url }
    }

    /// A token of somebody in a group, with what makes it one of the given kind.
    fn token(&self, kind: &str, group: &str) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        // Beyond the minute by which clocks may differ.
        let expires = if kind == "expired JWT" { now - 120 } else { now + 3600 };
        let audience = if kind == "JWT for others" { "others" } else { "mindos" };
        let group = if kind == "JWT without a role" { "nobody" } else { group };
        let claims = serde_json::json!({
            "iss": self.url, "aud": audience, "sub": "alice", "iat": now - 300, "exp": expires, "groups": [group],
        });
        match kind {
            "wrong JWT" => signed(&rcgen::KeyPair::generate().unwrap(), &claims),
            _ => signed(&self.key, &claims),
        }
    }
}

#[tokio::test]
async fn only_what_the_table_allows_passes() {
    let provider = Provider::start().await;
    let directory = Directory::new();
    std::fs::create_dir_all(&directory.0).unwrap();
    let settings = directory.0.join("settings.yaml");
    // The listeners of the GitLens contract let in this machine, which is named here.
    let text = format!(
        "{{limits: {{failures_per_second: 100000, new_connections_per_second: 100000, requests_per_second: {{address: 100000, principal: 100000}}}}, \
         oidc: [{{name: corp, issuer: '{0}', audience: mindos, jwks: '{0}/keys'}}], \
         github_secret: '{SECRET}', gitlab: {{secret: '{SECRET}'}}, alertmanager: {{secret: '{SECRET}'}}, \
         gitlens: {{sources: {{aggregator: ['127.0.0.0/8'], orchestrator: ['127.0.0.0/8']}}}}, \
         platform: {{sources: ['127.0.0.0/8']}}}}",
        provider.url
    );
    std::fs::write(&settings, text).unwrap();
    let options = [
        "--access",
        "enforced",
        "--tls",
        "off",
        "--aggregator-address",
        "127.0.0.1:0",
        "--surface",
        "platform=127.0.0.1:0",
        "--settings",
    ];
    let options = [&options[..], &[settings.to_str().unwrap()]].concat();
    let server = Running::with(&directory, &options).await;
    let file = directory.0.join("admin-token");
    let channel = server.channel().await;
    // The file is there a little before the token works.
    let admin = loop {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let credential = Credential { token: Some(text.trim().to_owned()), tenant: None };
        if call(&channel, "mindos.access.v1.AccessService/WhoAmI", &credential).await.is_none() {
            break text.trim().to_owned();
        }
    };
    let agents = Channel::from_shared(server.agents.clone()).unwrap().connect().await.unwrap();
    let mut tokens = Tokens { client: AccessServiceClient::new(channel.clone()), admin };

    // By role, where and kind of credential.
    let mut credentials = BTreeMap::new();
    for (place, (_, role, _)) in ROLES.iter().enumerate() {
        for (at, tenant) in [(Where::Own, "acme"), (Where::Plane, "*")] {
            let (_, right) = tokens.make(tenant, *role, None).await;
            let (_, expired) = tokens.make(tenant, *role, Some(1)).await;
            let (revoked_id, revoked) = tokens.make(tenant, *role, None).await;
            tokens.revoke(revoked_id).await;
            let (_, others) = tokens.make("other", *role, None).await;
            let wrong = format!("mindos_api_{}", "A".repeat(43));
            let (group, elsewhere) = (format!("{tenant}-{place}"), format!("other-{place}"));
            tokens.bind(&format!("oidc:corp#{group}"), tenant, *role).await;
            tokens.bind(&format!("oidc:corp#{elsewhere}"), "other", *role).await;
            let jwt = |kind: &str| provider.token(kind, if kind == "other tenant's JWT" { &elsewhere } else { &group });
            let texts = [None, Some(wrong), Some(expired), Some(revoked), Some(others), Some(right)];
            let texts = texts.into_iter().chain(KINDS[6..].iter().map(|kind| Some(jwt(kind))));
            for (kind, token) in KINDS.into_iter().zip(texts) {
                let tenant = kind.starts_with("other tenant's").then_some("acme");
                credentials.insert((kind, at, place), Credential { token, tenant });
            }
        }
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let address = |url: &str| url.strip_prefix("http://").unwrap().parse().unwrap();
    let (api, aggregator, platform) = (address(&server.api), server.aggregator.unwrap(), server.platform.unwrap());
    let (mut cases, mut wrong) = (0, Vec::new());
    let mut table = BTreeMap::<String, (String, BTreeMap<(Where, usize), bool>)>::new();
    for ((kind, at, place), credential) in &credentials {
        let (role, _, word) = ROLES[*place];
        for (name, permission) in RPCS {
            let channel = if *permission == Permission::Agent { &agents } else { &channel };
            let refused = call(channel, name, credential).await;
            cases += 1;
            if refused.is_none() != expected(*permission, kind, role, *at) {
                wrong.push(format!("{name} with {kind} credential of {word} ({at:?}): {refused:?}"));
            }
            if *kind == "right" {
                let row =
                    table.entry(format!("rpc {name}")).or_insert_with(|| (describe(*permission), BTreeMap::new()));
                row.1.insert((*at, *place), refused.is_none());
            }
        }
        for (listener, method, path, permission) in PATHS {
            let (to, on) = match listener {
                Listener::Api => (api, "8090"),
                Listener::Aggregator => (aggregator, "8086"),
                Listener::Platform => (platform, "platform"),
            };
            let (code, refused) = ask(to, method.as_str(), path, credential).await;
            cases += 1;
            let is_right = match permission {
                // They ask for their own secret, whatever else is shown.
                Permission::Webhook => [400, 401, 404].contains(&code) && refused.is_none(),
                _ => refused.is_none() == expected(*permission, kind, role, *at),
            };
            if !is_right {
                wrong.push(format!(
                    "{method} {path} on {on} with {kind} credential of {word} ({at:?}): {code} {refused:?}"
                ));
            }
            if *kind == "right" {
                let name = format!("{on} {method} {path}");
                let row = table.entry(name).or_insert_with(|| (describe(*permission), BTreeMap::new()));
                row.1.insert((*at, *place), refused.is_none());
            }
        }
    }
    println!(
        "{cases} cases: {} RPCs and {} paths, 4 roles, 2 scopes, {} kinds of credential",
        RPCS.len(),
        PATHS.len(),
        KINDS.len()
    );
    assert!(wrong.is_empty(), "{} of {cases} are not as the table says:\n{}", wrong.len(), wrong.join("\n"));
    compare(&print(&table));
    server.stop().await;
}

fn describe(permission: Permission) -> String {
    match permission {
        Permission::Public => "everybody".to_owned(),
        Permission::Anyone => "whoever is known".to_owned(),
        Permission::Agent => "agents, by certificate".to_owned(),
        Permission::Webhook => "its own secret".to_owned(),
        Permission::Surface(right) => format!("addresses of the settings ({})", right.name),
        Permission::Needs(right) if right.agent => format!("{}, and agents", right.name),
        Permission::Needs(right) => right.name.to_owned(),
    }
}

type Row = (String, BTreeMap<(Where, usize), bool>);

fn print(table: &BTreeMap<String, Row>) -> String {
    let mut text = String::from(
        "# Who may call what: written by control-plane/server/tests/all/access_table.rs from what a server answered.\n\
         # v viewer, p publisher, o operator, a admin; of its tenant | of the plane. With no credential, a wrong, expired or revoked one, or one\n\
         # of another tenant, the same rows pass that take none.\n",
    );
    for (name, (permission, passes)) in table {
        let of = |at: Where| -> String {
            let letter = |(place, letter): (usize, char)| if passes[&(at, place)] { letter } else { '-' };
            "vpoa".chars().enumerate().map(letter).collect()
        };
        let _ = writeln!(text, "{name:<72} {} | {}  {permission}", of(Where::Own), of(Where::Plane));
    }
    text
}

fn compare(found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/results/access-table.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, found).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        found,
        wanted,
        "{} is not what a server answers: run with UPDATE=1 and read the difference",
        path.display()
    );
}
