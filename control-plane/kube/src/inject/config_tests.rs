use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    config: Config,
}

const NEEDED: [&str; 6] =
    ["--image", "r/mindos-sidecar:1", "--control-plane", "https://mindos.example.com:8091", "--cluster", "eu"];

fn checked(more: &[&str]) -> Result<Checked, String> {
    let args = ["injector"].iter().chain(&NEEDED).chain(more).copied();
    Args::try_parse_from(args).map_err(|error| error.to_string())?.config.check().map_err(|error| error.to_string())
}

#[test]
fn settings_have_their_usual_values() {
    let Checked { settings, policy, files, roots } = checked(&[]).unwrap();
    assert_eq!(settings.trust, Trust::ConfigMap("mindos-ca".to_owned()));
    assert_eq!((settings.native, settings.wrong, settings.health_port), (Native::Auto, Wrong::Warn, 8092));
    assert_eq!(settings.run_as_user, Some(65532));
    assert_eq!(settings.drain_grace, Duration::from_secs(60));
    for namespace in ["kube-system", "kube-public", "kube-node-lease", "mindos"] {
        assert!(settings.excluded.contains(namespace), "{namespace}");
    }
    assert_eq!(policy.names, ["mindos-injector.mindos.svc", "mindos-injector.mindos.svc.cluster.local"]);
    assert_eq!((policy.life, policy.settle()), (30 * 86_400, 600));
    assert!(files.is_none() && roots.is_none());
}

#[test]
fn what_is_wrong_names_its_flag() {
    for (more, message) in [
        (&["--tls-cert", "a"][..], "--tls-cert and --tls-key belong together"),
        (&["--server-name", "a b"], "--server-name is `a b`: expected names"),
        (&["--cluster-label", "=x"], "--cluster-label is `=x`: expected KEY=VALUE"),
        (&["--run-as-user", "root"], "--run-as-user is `root`: expected a number from 1 on"),
        (&["--run-as-user", "0"], "--run-as-user is `0`"),
        (&["--ca-sha256", "00"], "--ca-sha256 is `00`: expected 64 hex digits"),
        (&["--audience", ""], "--audience is ``"),
        (&["--memory-request", "1Gi"], "--memory-limit is `128Mi`: expected no less"),
        (&["--cpu-limit", "5m"], "--cpu-limit is `5m`: expected no less"),
        (&["--memory-limit", "64MB"], "expected an amount such as 10m, 0.5, 32Mi or 1Gi"),
        (&["--ca-file", "/nowhere/ca.pem"], "--ca-file: failed to read `/nowhere/ca.pem`"),
        (&["--certificate-life", "30s"], "expected 1m to 3650d"),
        (&["--token-life", "1m"], "expected 10m to 24h"),
        (&["--drain-grace", "61m"], "expected 0s to 1h"),
        (&["--native-sidecar", "maybe"], "possible values: auto, always, never"),
        (&["--health-port", "80"], "80 is not in 1024.."),
        (&["--ca-system", "--ca-sha256", "00"], "cannot be used with"),
    ] {
        let error = checked(more).unwrap_err();
        assert!(error.contains(message), "{more:?}: {error}");
    }
    let clear = |more: &[&str]| {
        let args = ["injector", "--image", "i", "--cluster", "eu", "--control-plane"].iter().chain(more).copied();
        Args::try_parse_from(args).unwrap().config.check().map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(clear(&["http://127.0.0.1:8091"]), Ok(()));
    assert_eq!(
        clear(&["http://h", "--ca-system"]).unwrap_err(),
        "--ca-system needs --control-plane https://<host>:<port>"
    );
    assert!(clear(&["mindos.example.com"]).unwrap_err().contains("expected https://<host>:<port>"));
}
