//! Who a member is.

use bytes::Bytes;
use tidelog_metadata_log::env::Entropy;
use tidelog_proto::v1;
use tidelog_types::group::GROUP_NAME_MAX;
use tidelog_types::{GroupName, Incarnation, MemberId};

/// Hexadecimal digits: 48 bits, of which a thousand members hardly have two alike.
const RANDOM_DIGITS: usize = 12;

/// One run of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    pub group: GroupName,
    pub member_id: MemberId,
    pub incarnation: Incarnation,
}

impl Identity {
    /// As it goes over the wire.
    pub(super) fn to_wire(&self) -> v1::MemberIdentity {
        v1::MemberIdentity {
            group: self.group.to_string(),
            member_id: self.member_id.to_string(),
            incarnation: Bytes::copy_from_slice(self.incarnation.0.as_bytes()),
        }
    }
}

/// A member id for one who has none: the client's name, as far as an id can have it, and a random part.
pub(super) fn random_member_id(client_id: &str, entropy: &Entropy) -> MemberId {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let random = entropy.uuid().simple().to_string();
    let random = &random[..RANDOM_DIGITS];
    let name: String = client_id.chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let room = GROUP_NAME_MAX - RANDOM_DIGITS - 1;
    let prefix = if name.is_empty() { "member" } else { name.get(..room).unwrap_or(&name) };
    MemberId::new(&format!("{prefix}-{random}")).expect("allowed characters within the limit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_client_gets_a_member_id_of_its_own() {
        let entropy = Entropy::seeded(1);
        for (client_id, prefix) in
            [("", "member-"), ("tidelog consume", "tidelog-consume-"), ("caf\u{e9}", "caf--")]
        {
            let ids = [random_member_id(client_id, &entropy), random_member_id(client_id, &entropy)];
            assert!(ids.iter().all(|id| id.as_str().starts_with(prefix)), "{ids:?}");
            assert_ne!(ids[0], ids[1]);
        }
        assert_eq!(random_member_id(&"x".repeat(300), &entropy).as_str().len(), GROUP_NAME_MAX);
    }
}
