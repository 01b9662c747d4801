//! What is asked of the program itself, in an image without a shell.

use clap::Parser;
use mindos_control_plane::asked::{self, Asked};

use crate::support::{Directory, Running};

async fn answer(words: &[&str]) -> Result<String, String> {
    let asked =
        Asked::try_parse_from([&["mindos-control-plane"], words].concat()).map_err(|error| error.to_string())?;
    let answered = tokio::task::spawn_blocking(move || asked::answer(asked)).await.unwrap();
    answered.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_credential_the_roots_and_whether_it_is_ready() {
    let directory = Directory::new();
    let data = directory.0.to_str().unwrap().to_owned();
    let refused = answer(&["admin-token", "--data-dir", &data]).await.unwrap_err();
    assert!(refused.contains("admin-token") && refused.contains("first start"), "{refused}");

    let server = Running::with(&directory, &["--tls", "authority", "--access", "enforced"]).await;
    let at = server.api.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(answer(&["ready", "--timeout", "10s", &at]).await.unwrap(), format!("{at} is ready"));
    for _ in 0..100 {
        if directory.0.join("admin-token").exists() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(answer(&["admin-token", "--data-dir", &data]).await.unwrap().starts_with("mindos_"));
    assert!(answer(&["roots", "--data-dir", &data]).await.unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    server.stop().await;
    let refused = answer(&["ready", &at]).await.unwrap_err();
    assert!(refused.contains("is not ready"), "{refused}");

    let open = Running::alone(&[]).await;
    let at = open.api.strip_prefix("http://").unwrap().to_owned();
    assert!(answer(&["ready", &at]).await.is_ok(), "in the clear too");
    open.stop().await;
    assert!(answer(&["ready", "nobody"]).await.is_err());
}
