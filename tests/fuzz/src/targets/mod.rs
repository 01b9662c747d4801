//! The targets by name.

mod access;
mod admission;
mod change;
mod http_in;
mod journal;
mod models;
mod record;
mod routes;
mod wire;

use crate::mutate::Shape;

/// A decoder, and what to feed it.
#[derive(Debug)]
pub struct Target {
    /// Names it on the command line.
    pub name: &'static str,
    /// Decodes an input and panics where the decoder breaks a claim.
    pub run: fn(&[u8]),
    /// Inputs that are taken, to be changed.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// What an input is made of.
    pub shape: Shape,
    /// Words to write into inputs.
    pub words: &'static [&'static str],
}

/// Every decoder that meets the outside.
pub const TARGETS: &[Target] = &[
    // GitHub webhooks, up to the event that the plane gets.
    Target {
        name: "github",
        run: http_in::github,
        seeds: http_in::github_seeds,
        shape: Shape::JsonRequest,
        words: &[
            "action",
            "repository",
            "full_name",
            "merged",
            "pull_request",
            "ref",
            "refs/heads/x",
            "payload=%7B%7D",
            "closed",
            "/approve",
            "/refine ",
            "author_association",
        ],
    },
    // Pods that are to be made, as API servers show them to the injector.
    Target {
        name: "admission",
        run: admission::admission,
        seeds: admission::admission_seeds,
        shape: Shape::Json,
        words: &[
            "null",
            "[]",
            "{}",
            "\"mindos.io/general\":\"a\"",
            "\"mindos.io/port\":\"http\"",
            "mindos-sidecar",
            "\"initContainers\":",
            "\"volumes\":",
            "\"lifecycle\":",
            "\"preStop\":",
            "Never",
            "8092",
        ],
    },
    // Messages of the coding agent's queue.
    Target {
        name: "task",
        run: http_in::task,
        seeds: http_in::task_seeds,
        shape: Shape::Bytes,
        words: &["quickfix", "implement", "issue_id", "https://", "..", ".git", "@", "null", "18446744073709551616"],
    },
    // Events, webhooks and distributions of the GitLens contract.
    Target {
        name: "gitlens",
        run: http_in::gitlens,
        seeds: http_in::gitlens_seeds,
        shape: Shape::JsonRequest,
        words: &["type", "event_type", "metadata", "pr_number", "branch", "refs/heads/x", "llm_generals", "timestamp"],
    },
    // CloudEvents over HTTP in their three forms.
    Target {
        name: "cloudevents",
        run: http_in::cloudevents,
        seeds: http_in::cloudevents_seeds,
        shape: Shape::JsonRequest,
        words: &[
            "specversion",
            "1.0",
            "data_base64",
            "ce-time: ",
            "2026-11-20T18:00:00.123456789+23:59",
            "%F0%9F%A7%A0",
            "lane",
        ],
    },
    // CloudEvents in protobuf, as gRPC brings them.
    Target {
        name: "event",
        run: wire::event,
        seeds: wire::event_seeds,
        shape: Shape::Bytes,
        words: &["lane", "kind", "1.0"],
    },
    // Requests to publish.
    Target { name: "publish", run: wire::publish, seeds: wire::publish_seeds, shape: Shape::Bytes, words: &["lane"] },
    // What agents send.
    Target {
        name: "connect",
        run: wire::connect,
        seeds: wire::connect_seeds,
        shape: Shape::Bytes,
        words: &["d1.1", "d0.0"],
    },
    // What the control plane sends to agents.
    Target {
        name: "assign",
        run: wire::assign,
        seeds: wire::assign_seeds,
        shape: Shape::Bytes,
        words: &["d1.1", "lane"],
    },
    // What a general gets from its sidecar.
    Target {
        name: "general",
        run: http_in::general,
        seeds: http_in::general_seeds,
        shape: Shape::JsonRequest,
        words: &["event_type", "pr_created", "job_id", "timestamp", "general_info", "data", "commits", "ce-type: "],
    },
    // Diffs of git, and patches as forges give them.
    Target {
        name: "diff",
        run: change::diff,
        seeds: change::diff_seeds,
        shape: Shape::Bytes,
        words: &[
            "diff --git a/x b/x\n",
            "--- ",
            "+++ ",
            "/dev/null",
            "@@ -1,2 +3,4 @@",
            "@@ -4294967295,4294967295 +0,0 @@",
            "\\ No newline",
            "rename from ",
            "\"",
            "\\303",
            "\r",
            "\n",
        ],
    },
    // What a model provider sends.
    Target {
        name: "model-stream",
        run: models::stream,
        seeds: models::stream_seeds,
        shape: Shape::Bytes,
        words: &[
            "data: ",
            "\n\n",
            "\r",
            "[DONE]",
            "\"finish_reason\":\"length\"",
            "\"index\":1",
            "\"done\":true",
            "message_stop",
            "null",
            "{}",
        ],
    },
    // What a model writes where JSON of a schema was asked for.
    Target {
        name: "model-answer",
        run: models::answer,
        seeds: models::answer_seeds,
        shape: Shape::Bytes,
        words: &["\"type\":", "\"items\":", "\"anyOf\":[", "\"enum\":", "\"required\":", "```", "true", "[", "1e400"],
    },
    // A record of any kind.
    Target {
        name: "record",
        run: record::record,
        seeds: record::record_seeds,
        shape: Shape::Bytes,
        words: &["default", "eu"],
    },
    // A routes file.
    Target {
        name: "routes",
        run: routes::file,
        seeds: routes::file_seeds,
        shape: Shape::Bytes,
        words: &[
            "routes:",
            "- name: ",
            "match: {",
            "expr: ",
            "strategy: broadcast",
            "guards: {forks: park}",
            "deadline: 10m",
            "&a ",
            "*a",
        ],
    },
    // A condition, and its evaluation over a real payload.
    Target {
        name: "condition",
        run: routes::condition,
        seeds: routes::condition_seeds,
        shape: Shape::Bytes,
        words: &[
            "data.",
            "attributes.",
            ".exists(x, ",
            ".map(x, ",
            " && ",
            ".matches('",
            "has(",
            " in [",
            "size(",
            "? 1 : 2",
            "[0]",
        ],
    },
    // A journal's segment, its checksums made to fit.
    Target {
        name: "segment",
        run: journal::segment,
        seeds: journal::segment_seeds,
        shape: Shape::Bytes,
        words: &["MDFRAME1"],
    },
    // An exported ledger, its checksums made to fit.
    Target {
        name: "export",
        run: journal::export,
        seeds: journal::export_seeds,
        shape: Shape::Bytes,
        words: &["MDLB", "MDLEDEND", "MDLEDGR1"],
    },
    // A snapshot file.
    Target {
        name: "snapshot",
        run: journal::snapshot,
        seeds: journal::snapshot_seeds,
        shape: Shape::Bytes,
        words: &[],
    },
    // A token of an identity provider.
    Target {
        name: "jwt",
        run: access::jwt,
        seeds: access::jwt_seeds,
        shape: Shape::Bytes,
        words: &[
            "\"alg\":\"none\"",
            "\"alg\":\"HS256\"",
            "ES384",
            "\"crit\":[]",
            "\"cnf\":{}",
            "1e300",
            "\\u0000",
            ".",
        ],
    },
    // The keys of an identity provider.
    Target {
        name: "jwks",
        run: access::jwks,
        seeds: access::jwks_seeds,
        shape: Shape::Json,
        words: &["kty", "RSA", "EC", "OKP", "P-384", "Ed25519", "AQAB", "x5c", "oct", "use", "enc"],
    },
    // A certificate of an agent, and a request for one.
    Target {
        name: "certificate",
        run: access::certificate,
        seeds: access::certificate_seeds,
        shape: Shape::Bytes,
        words: &["spiffe://mindos.local/tenant/", "/general/", "\u{0}"],
    },
    // The name of an agent.
    Target {
        name: "identity",
        run: access::identity,
        seeds: access::identity_seeds,
        shape: Shape::Bytes,
        words: &["tenant/", "cluster/", "ns/", "general/", "instance/", "agent/", "//", "%2f", "..", "A"],
    },
    // A settings file.
    Target {
        name: "settings",
        run: access::settings,
        seeds: access::settings_seeds,
        shape: Shape::Bytes,
        words: &[
            "limits: ",
            "oidc: ",
            "token_review: ",
            "anchors: ",
            "1h",
            "99999999999999999999d",
            "&a ",
            "*a",
            "-1",
            "1e9",
        ],
    },
    // The frames of a connection, as they are counted.
    Target {
        name: "frames",
        run: access::frames,
        seeds: access::frames_seeds,
        shape: Shape::Bytes,
        words: &["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\0\0\0\x09\x04\0\0\0\x01", "\0\0\0\x01\0\0\0\0\x01"],
    },
];
