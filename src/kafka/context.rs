//! What librdkafka calls back: recorded here, acted upon by the thread that polls.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as NativeOffset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;

use crate::core::record::{Offset, Partition};

/// More errors than this between two looks say nothing more.
const MAX_ERRORS: usize = 64;

/// A callback, in the order in which they came.
#[derive(Debug)]
pub(super) enum Notice {
    Assigned(Vec<Partition>),
    Revoked(Vec<Partition>),
    Lost(Vec<Partition>),
    Committed(Result<Vec<(Partition, Offset)>, String>),
    Error { code: Option<RDKafkaErrorCode>, reason: String },
}

#[derive(Debug, Default)]
pub(super) struct Context {
    notices: Mutex<Vec<Notice>>,
    /// Why the last connection broke off, as the log tells: the event for it does not always come.
    failure: Mutex<Option<String>>,
    closing: AtomicBool,
}

impl Context {
    pub(super) fn take(&self) -> Vec<Notice> {
        std::mem::take(&mut *self.lock())
    }

    pub(super) fn take_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// From here on a rebalance is answered inside its callback: nobody is left to answer it later, and dropping the consumer
    /// waits until it is answered.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, notice: Notice) {
        let mut notices = self.lock();
        let errors = matches!(notice, Notice::Error { .. }) && notices.len() >= MAX_ERRORS;
        if !errors {
            notices.push(notice);
        }
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        if facility == "FAIL" && matches!(level, RDKafkaLogLevel::Error) {
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.to_owned());
        }
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.record(Notice::Error { code: error.rdkafka_error_code(), reason: reason.to_owned() });
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, event: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Acquire) {
            // librdkafka takes any answer of a closing consumer as the unassignment of everything.
            if let Err(error) = consumer.incremental_unassign(list) {
                tracing::debug!(%error, "unassigning while closing");
            }
            return;
        }
        let partitions = partitions(list);
        self.record(match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Notice::Assigned(partitions),
            _ if consumer.assignment_lost() => Notice::Lost(partitions),
            _ => Notice::Revoked(partitions),
        });
    }

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        if matches!(
            &result,
            Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::NoOffset)
        ) {
            return;
        }
        self.record(Notice::Committed(result.and_then(|()| committed(offsets)).map_err(|error| error.to_string())));
    }
}

/// librdkafka's log lines: problems that matter also arrive as errors, so here they are for the curious.
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
            tracing::warn!(target: "librdkafka", facility, "{message}");
        }
        RDKafkaLogLevel::Warning if facility != "CONFWARN" => {
            tracing::info!(target: "librdkafka", facility, "{message}");
        }
        _ => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}

/// A partition list of our topic in plain types.
pub(super) fn partitions(list: &TopicPartitionList) -> Vec<Partition> {
    list.elements().iter().map(|element| Partition(element.partition())).collect()
}

pub(super) fn list(topic: &str, partitions: impl IntoIterator<Item = Partition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, partition.0);
    }
    list
}

pub(super) fn list_at(topic: &str, offsets: &BTreeMap<Partition, Offset>) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition.0, NativeOffset::Offset(offset.0))?;
    }
    Ok(list)
}

fn committed(offsets: &TopicPartitionList) -> KafkaResult<Vec<(Partition, Offset)>> {
    let mut committed = Vec::with_capacity(offsets.count());
    for element in offsets.elements() {
        element.error()?;
        if let NativeOffset::Offset(offset) = element.offset() {
            committed.push((Partition(element.partition()), Offset(offset)));
        }
    }
    Ok(committed)
}

/// With the classic protocol whoever comes later gets the id of a static member, with the consumer protocol whoever has it keeps it.
pub(super) fn is_instance_id_taken(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::UnreleasedInstanceId)
}

/// The label of `kafka_errors_total{class}`. Closed, so that every series exists from the start.
pub(super) fn error_class(code: Option<RDKafkaErrorCode>) -> &'static str {
    use RDKafkaErrorCode as Code;
    match code {
        Some(
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::BrokerNotAvailable
            | Code::NetworkException
            | Code::RequestTimedOut,
        ) => "transport",
        Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => "authentication",
        Some(Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            "authorization"
        }
        Some(Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition) => "unknown_topic",
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => "out_of_range",
        Some(Code::PollExceeded) => "max_poll_exceeded",
        Some(
            Code::UnknownMemberId
            | Code::IllegalGeneration
            | Code::RebalanceInProgress
            | Code::FencedMemberEpoch
            | Code::StaleMemberEpoch,
        ) => "group",
        Some(code) if is_instance_id_taken(code) => "instance_id",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::consumer::ERROR_CLASSES;

    #[test]
    fn every_error_has_a_class_that_dashboards_know() {
        let cases = [
            (RDKafkaErrorCode::BrokerTransportFailure, "transport"),
            (RDKafkaErrorCode::AllBrokersDown, "transport"),
            (RDKafkaErrorCode::Resolve, "transport"),
            (RDKafkaErrorCode::SSL, "authentication"),
            (RDKafkaErrorCode::Authentication, "authentication"),
            (RDKafkaErrorCode::TopicAuthorizationFailed, "authorization"),
            (RDKafkaErrorCode::GroupAuthorizationFailed, "authorization"),
            (RDKafkaErrorCode::UnknownTopicOrPartition, "unknown_topic"),
            (RDKafkaErrorCode::AutoOffsetReset, "out_of_range"),
            (RDKafkaErrorCode::OffsetOutOfRange, "out_of_range"),
            (RDKafkaErrorCode::PollExceeded, "max_poll_exceeded"),
            (RDKafkaErrorCode::UnknownMemberId, "group"),
            (RDKafkaErrorCode::FencedInstanceId, "instance_id"),
            (RDKafkaErrorCode::UnreleasedInstanceId, "instance_id"),
            (RDKafkaErrorCode::InvalidMessage, "other"),
        ];
        for (code, class) in cases {
            assert_eq!(error_class(Some(code)), class, "{code:?}");
            assert!(ERROR_CLASSES.contains(&class), "{class}");
        }
        assert_eq!(error_class(None), "other");
    }

    #[test]
    fn errors_do_not_pile_up_and_push_nothing_else_out() {
        let context = Context::default();
        for _ in 0..1_000 {
            context.error(KafkaError::Global(RDKafkaErrorCode::Resolve), "no such host");
        }
        context.record(Notice::Revoked(vec![Partition(1)]));
        let notices = context.take();
        assert_eq!(notices.len(), MAX_ERRORS + 1);
        assert!(matches!(notices.last(), Some(Notice::Revoked(_))));
        assert!(context.take().is_empty());
    }
}
