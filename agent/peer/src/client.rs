//! The follower's side.

use std::time::Duration;

use futures::future::BoxFuture;
use futures::{StreamExt, stream};
use tidelog_metadata_node::{AgentCard, Link, LinkError, Peers};
use tidelog_metadata_state::Leader;
use tidelog_types::{ClusterId, Place};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use crate::MESSAGE_BYTES_MAX;
use crate::convert::{self, Start};
use crate::v1::peer_service_client::PeerServiceClient;

/// The node itself waits less long; this is for connections whose future it has dropped.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// Messages to the leader that wait for its connection. What waits behind them is the node's to keep.
const QUEUED_MESSAGES: usize = 8;

/// Reaches leaders at the addresses that they advertise, `host:port`.
#[derive(Debug, Clone)]
pub struct GrpcPeers {
    cluster: ClusterId,
    card: AgentCard,
}

impl GrpcPeers {
    /// The peers of one agent.
    pub fn new(cluster: ClusterId, card: AgentCard) -> Self {
        Self { cluster, card }
    }
}

impl Peers for GrpcPeers {
    fn connect(&self, leader: &Leader, from: Place) -> BoxFuture<'static, Result<Link, LinkError>> {
        let start = Start { cluster: self.cluster, leader: leader.agent, follower: self.card.clone(), from };
        let address = leader.address.clone();
        Box::pin(async move {
            let wrong = |error| LinkError::Failed(format!("address {address:?}: {error}"));
            let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(wrong)?;
            let channel = endpoint
                .connect_timeout(CONNECT_MAX)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(Duration::from_secs(5))
                .keep_alive_timeout(Duration::from_secs(5))
                .connect()
                .await
                .map_err(|error| match convert::is_reset(&error) {
                    true => LinkError::Refused(address.clone()),
                    false => LinkError::Failed(format!("{address}: {error}")),
                })?;
            let mut client = PeerServiceClient::new(channel)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(MESSAGE_BYTES_MAX);
            let (to_leader, messages) = mpsc::channel(QUEUED_MESSAGES);
            let requests = stream::once(std::future::ready(start.into()))
                .chain(ReceiverStream::new(messages).map(convert::to_request));
            let responses = client.follow(requests).await.map_err(|status| convert::from_status(&status))?;
            let from_leader = responses.into_inner().map(|response| match response {
                Ok(response) => convert::from_response(response),
                Err(status) => Err(convert::from_status(&status)),
            });
            Ok(Link { from_leader: from_leader.boxed(), to_leader })
        })
    }
}
