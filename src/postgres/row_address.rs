//! The address of a row as Postgres writes it: its `tid`, in which `ctid` is given and asked for.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

use crate::core::input::RowAddress;

/// Of the catalog of every Postgres (`pg_type.dat`): asked for by name, they would cost each connection a statement.
const TID: Oid = Oid(27);
const TID_ARRAY: Oid = Oid(1010);

impl Type<Postgres> for RowAddress {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TID)
    }
}

impl PgHasArrayType for RowAddress {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TID_ARRAY)
    }
}

impl Encode<'_, Postgres> for RowAddress {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend(self.block.to_be_bytes());
        buffer.extend(self.item.to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for RowAddress {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        match (value.format(), value.as_bytes()?) {
            (PgValueFormat::Binary, &[b0, b1, b2, b3, i0, i1]) => {
                Ok(Self { block: u32::from_be_bytes([b0, b1, b2, b3]), item: u16::from_be_bytes([i0, i1]) })
            }
            _ => Err("a tid of another form than six bytes".into()),
        }
    }
}
