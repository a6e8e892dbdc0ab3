package herald.peers;

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Array;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.HashSet;
import java.util.List;
import java.util.Set;

/** A row before the notification and a row after it, each committed before what follows. */
final class Ledger implements AutoCloseable {
    private static final String CLAIM =
            "INSERT INTO peer_ledger (order_id, event_type, kpartition, koffset) VALUES (?, ?, ?, ?)"
                    + " ON CONFLICT (order_id, event_type)";
    /** An order that was notified is not changed, and so not counted. */
    private static final String CLAIM_ONE = CLAIM + " DO UPDATE SET claimed_at = now() WHERE peer_ledger.state = 'c'";
    private static final String CLAIM_ALL = CLAIM + " DO NOTHING";
    private static final String RECORD =
            "INSERT INTO peer_ledger (order_id, event_type, kpartition, koffset, state, settled_at)"
                    + " VALUES (?, ?, ?, ?, 'd', now()) ON CONFLICT (order_id, event_type) DO NOTHING";
    private static final String DONE =
            "SELECT order_id FROM peer_ledger WHERE order_id = ANY (?) AND event_type = ? AND state = 'd'";
    private static final String SETTLE =
            "UPDATE peer_ledger SET state = 'd', settled_at = now() WHERE order_id = ? AND event_type = ?";

    private final HikariDataSource pool;

    Ledger(String url, int connections) {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl(url);
        config.setMaximumPoolSize(connections);
        // A batch of inserts becomes one statement of many rows.
        config.addDataSourceProperty("reWriteBatchedInserts", "true");
        pool = new HikariDataSource(config);
    }

    /** False where the order was notified before. */
    boolean claim(Order order) throws SQLException {
        try (Connection connection = pool.getConnection();
                PreparedStatement statement = connection.prepareStatement(CLAIM_ONE)) {
            bind(statement, order);
            return statement.executeUpdate() == 1;
        }
    }

    void settle(Order order) throws SQLException {
        try (Connection connection = pool.getConnection();
                PreparedStatement statement = connection.prepareStatement(SETTLE)) {
            statement.setLong(1, order.id());
            statement.setString(2, order.eventType());
            statement.executeUpdate();
        }
    }

    /** Those of the orders, all of one type, that were not notified before. */
    List<Order> claim(List<Order> orders) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            connection.setAutoCommit(false);
            try (PreparedStatement statement = connection.prepareStatement(CLAIM_ALL)) {
                for (Order order : orders) {
                    bind(statement, order);
                    statement.addBatch();
                }
                statement.executeBatch();
            }
            Set<Long> done = done(connection, orders);
            connection.commit();
            return orders.stream().filter(order -> !done.contains(order.id())).toList();
        }
    }

    /** Those of the orders, all of one type, that were not there before: they count as notified from now on. */
    List<Order> record(List<Order> orders) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            connection.setAutoCommit(false);
            Set<Long> done = done(connection, orders);
            try (PreparedStatement statement = connection.prepareStatement(RECORD)) {
                for (Order order : orders) {
                    bind(statement, order);
                    statement.addBatch();
                }
                statement.executeBatch();
            }
            connection.commit();
            return orders.stream().filter(order -> !done.contains(order.id())).toList();
        }
    }

    void settle(List<Order> orders) throws SQLException {
        try (Connection connection = pool.getConnection()) {
            connection.setAutoCommit(false);
            try (PreparedStatement statement = connection.prepareStatement(SETTLE)) {
                for (Order order : orders) {
                    statement.setLong(1, order.id());
                    statement.setString(2, order.eventType());
                    statement.addBatch();
                }
                statement.executeBatch();
            }
            connection.commit();
        }
    }

    private static Set<Long> done(Connection connection, List<Order> orders) throws SQLException {
        Array ids = connection.createArrayOf("bigint", orders.stream().map(Order::id).toArray());
        Set<Long> done = new HashSet<>();
        try (PreparedStatement statement = connection.prepareStatement(DONE)) {
            statement.setArray(1, ids);
            statement.setString(2, orders.get(0).eventType());
            try (ResultSet rows = statement.executeQuery()) {
                while (rows.next()) {
                    done.add(rows.getLong(1));
                }
            }
        }
        return done;
    }

    private static void bind(PreparedStatement statement, Order order) throws SQLException {
        statement.setLong(1, order.id());
        statement.setString(2, order.eventType());
        statement.setInt(3, order.partition());
        statement.setLong(4, order.offset());
    }

    @Override
    public void close() {
        pool.close();
    }
}
