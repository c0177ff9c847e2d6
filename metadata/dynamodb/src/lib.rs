//! The metadata log kept in a DynamoDB table
