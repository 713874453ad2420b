//! `${VAR}`, `${file:PATH}` and `${cred:NAME}` in URLs, headers and texts.
//!
//! Owns putting secrets in, and the form in which such a text may be shown: with `***` instead.

use std::path::Path;

use super::file::read_text;
pub use crate::feed::text::Text;

/// Secrets are not longer than this, in bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

/// Puts the secrets in.
///
/// # Errors
/// A sentence that quotes the reference which can't be resolved, never a secret.
pub fn expand(input: &str) -> Result<Text, String> {
    let (mut value, mut shown) = (String::new(), String::new());
    let mut rest = input;
    while let Some(start) = rest.find("${") {
        let (before, reference) = rest.split_at(start);
        value.push_str(before);
        shown.push_str(before);
        let Some(end) = reference.find('}') else {
            return Err(format!("'{input}': a '${{' has no '}}' after it"));
        };
        value.push_str(&resolve(&reference[2..end])?);
        shown.push_str("***");
        rest = &reference[end + 1..];
    }
    value.push_str(rest);
    shown.push_str(rest);
    Ok(Text { value, shown })
}

fn resolve(reference: &str) -> Result<String, String> {
    let wrong = |what: String| format!("'${{{reference}}}': {what}");
    if let Some(path) = reference.strip_prefix("file:") {
        return read(Path::new(path)).map_err(wrong);
    }
    if let Some(name) = reference.strip_prefix("cred:") {
        if name.is_empty() || name.contains('/') || name == ".." {
            return Err(wrong("is not the name of a credential".to_string()));
        }
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY").ok_or_else(|| {
            wrong("no credentials: run under systemd with LoadCredential=".to_string())
        })?;
        return read(&Path::new(&folder).join(name)).map_err(wrong);
    }
    let is_name =
        !reference.is_empty() && reference.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Err(wrong("write ${VAR}, ${file:PATH} or ${cred:NAME}".to_string()));
    }
    std::env::var(reference).map_err(|error| wrong(error.to_string()))
}

fn read(path: &Path) -> Result<String, String> {
    let text = read_text(path, SECRET_BYTES_MAX);
    let text = text.map_err(|error| format!("can't read '{}': {error}", path.display()))?;
    // Editors and echo end a file with a line feed; no secret does.
    Ok(text.trim_end_matches(['\n', '\r']).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_put_in_and_hidden() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "s3cret\n").unwrap();
        let text = expand(&format!("a ${{file:{}}} b $ {{}}", file.display())).unwrap();
        assert_eq!(text.value, "a s3cret b $ {}");
        assert_eq!(text.shown, "a *** b $ {}");
        assert_eq!(expand("plain").unwrap(), Text::plain("plain"));
        // CARGO_PKG_NAME is in every test's environment.
        assert_eq!(expand("${CARGO_PKG_NAME}").unwrap().value, "feedtape");
    }

    #[test]
    fn wrong_references_are_quoted() {
        for input in
            ["${", "${}", "${a b}", "${NO_SUCH_VARIABLE}", "${file:/no/such}", "${cred:/x}"]
        {
            let error = expand(input).unwrap_err();
            assert!(error.contains(input), "{input}: {error}");
        }
    }
}
