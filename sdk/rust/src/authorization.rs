//! Who calls, said with every call: the bearer token, and the tenant where there is a choice.

use std::fmt;

use mindos_model::{Secret, TenantName};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Adds the credentials to each call.
#[derive(Clone, Default)]
pub struct Authorization {
    bearer: Option<MetadataValue<Ascii>>,
    tenant: Option<MetadataValue<Ascii>>,
}

/// A token that cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the token cannot be sent: expected one line of printable ASCII that is not empty")]
pub struct TokenError;

impl Authorization {
    pub(crate) fn with_token(self, token: &Secret) -> Result<Authorization, TokenError> {
        let text = token.expose();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError);
        }
        let mut bearer = MetadataValue::try_from(format!("Bearer {text}")).map_err(|_| TokenError)?;
        // Kept out of HTTP/2's tables and of everybody's Debug.
        bearer.set_sensitive(true);
        Ok(Authorization { bearer: Some(bearer), ..self })
    }

    pub(crate) fn with_tenant(self, tenant: &TenantName) -> Authorization {
        let tenant = MetadataValue::try_from(tenant.as_str()).expect("names are of ASCII");
        Authorization { tenant: Some(tenant), ..self }
    }

    pub(crate) fn has_token(&self) -> bool {
        self.bearer.is_some()
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("token", &self.has_token()).field("tenant", &self.tenant).finish()
    }
}

impl Interceptor for Authorization {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(bearer) = &self.bearer {
            request.metadata_mut().insert("authorization", bearer.clone());
        }
        if let Some(tenant) = &self.tenant {
            request.metadata_mut().insert("mindos-tenant", tenant.clone());
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_go_along_and_are_not_shown() {
        let token = Secret::new("mindos_api_0123");
        let mut authorization =
            Authorization::default().with_token(&token).unwrap().with_tenant(&TenantName::new("acme").unwrap());

        let request = authorization.call(Request::new(())).unwrap();

        assert_eq!(request.metadata().get("authorization").unwrap().to_str().unwrap(), "Bearer mindos_api_0123");
        assert_eq!(request.metadata().get("mindos-tenant").unwrap(), "acme");
        for shown in [format!("{authorization:?}"), format!("{request:?}"), format!("{token:?}")] {
            assert!(!shown.contains("0123"), "{shown}");
        }
    }

    #[test]
    fn a_token_is_one_line_of_text() {
        for token in ["", "two words", "line\nline", "t\u{f6}ken"] {
            assert!(Authorization::default().with_token(&Secret::new(token)).is_err(), "{token}");
        }
    }
}
