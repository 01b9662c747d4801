use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::*;

const NOW: Timestamp = Timestamp(1_795_176_000_000);

fn key() -> PublicKey {
    let pair = KeyPair::generate().unwrap();
    let request = CertificateParams::default().serialize_request(&pair).unwrap();
    PublicKey::of_request(request.der()).unwrap()
}

fn open(dir: &Path) -> Result<Authority, AuthorityError> {
    Authority::open(&dir.join("authority"), NOW)
}

#[test]
fn an_authority_is_the_same_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let (id, roots) = (first.id(), first.roots());
    let again = open(dir.path()).unwrap();
    assert_eq!((again.id(), again.roots()), (id, roots));

    let rotated = again.rotate(NOW).unwrap();
    assert!(rotated != id && again.id() == rotated && again.former() == Some(id));
    assert!(matches!(again.rotate(NOW), Err(AuthorityError::NotRetired)));
    let third = open(dir.path()).unwrap();
    assert_eq!((third.id(), third.former(), third.roots()), (rotated, Some(id), again.roots()));
    assert_eq!(third.retire().unwrap(), id);
    assert!(matches!(third.retire(), Err(AuthorityError::NothingToRetire)));
    let last = open(dir.path()).unwrap();
    assert_eq!((last.id(), last.former(), last.roots().len()), (rotated, None, 1));
    let published = fs::read(last.roots_path()).unwrap();
    assert_eq!(files::certificates(&last.roots_path(), &published).unwrap(), last.roots());
}

#[test]
fn certificates_say_who_and_how_long_and_may_not_sign() {
    let dir = tempfile::tempdir().unwrap();
    let authority = open(dir.path()).unwrap();
    let uri = "spiffe://mindos.local/tenant/default/cluster/c/agent/i";
    let made = authority.for_agent(uri, &key(), NOW, Duration::from_secs(7200)).unwrap();
    assert_eq!((made.not_before, made.not_after), (Timestamp(NOW.0 - 300_000), NOW + AGENT_LIFE_MAX));
    let (_, read) = x509_parser::parse_x509_certificate(&made.chain[0]).unwrap();
    assert!(!read.is_ca());
    assert_eq!(read.validity().not_after.timestamp(), i64::try_from(made.not_after.0 / 1000).unwrap());
    let usage = read.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.client_auth && !usage.server_auth);
    let other = authority.for_agent(uri, &key(), NOW, Duration::from_secs(60)).unwrap();
    let (_, other) = x509_parser::parse_x509_certificate(&other.chain[0]).unwrap();
    assert!(read.raw_serial().len() == 16 && read.raw_serial() != other.raw_serial());

    let (made, _) = authority.for_server(&["localhost".parse().unwrap()], NOW).unwrap();
    let (_, read) = x509_parser::parse_x509_certificate(&made.chain[0]).unwrap();
    let usage = read.extended_key_usage().unwrap().unwrap().value;
    assert!(!usage.client_auth && usage.server_auth && !read.is_ca());
}

#[test]
fn a_folder_or_file_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let folder = dir.path().join("authority");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    assert_eq!((mode(&folder.join("authority.pem")), mode(&folder.join("roots.pem"))), (0o600, 0o600));

    fs::set_permissions(folder.join("authority.pem"), Permissions::from_mode(0o604)).unwrap();
    assert!(matches!(open(dir.path()), Err(AuthorityError::File(FileError::Mode { mode: 0o604, .. }))));
    fs::set_permissions(folder.join("authority.pem"), Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o750)).unwrap();
    assert!(matches!(open(dir.path()), Err(AuthorityError::File(FileError::Mode { mode: 0o750, .. }))));
}

#[test]
fn a_damaged_file_ends_the_start_and_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap();
    let other = tempfile::tempdir().unwrap();
    open(other.path()).unwrap();
    let path = dir.path().join("authority/authority.pem");
    let (good, strange) =
        (fs::read_to_string(&path).unwrap(), fs::read_to_string(other.path().join("authority/authority.pem")).unwrap());
    let certificate = |text: &str| text[text.find("-----BEGIN CERTIFICATE").unwrap()..].to_owned();
    let key = &good[..good.find("-----BEGIN CERTIFICATE").unwrap()];
    let swapped = format!("{key}{}", certificate(&strange));
    for bad in ["", "junk", key, &certificate(&good), &swapped, &format!("{good}{}", certificate(&good))] {
        fs::write(&path, bad).unwrap();
        let error = open(dir.path()).unwrap_err();
        assert!(error.to_string().contains("authority.pem"), "{error}");
        assert!(!error.to_string().contains("PRIVATE KEY-----\n"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), bad);
    }
    fs::write(&path, &good).unwrap();
    open(dir.path()).unwrap();
}
