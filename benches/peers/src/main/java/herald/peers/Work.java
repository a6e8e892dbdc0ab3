package herald.peers;

/** The notification itself: a sleep whose length follows from the order id, in the same way for all that are measured. */
final class Work {
    private final long longestMillis;

    Work(long longestMillis) {
        this.longestMillis = longestMillis;
    }

    void on(Order order) {
        if (longestMillis == 0) {
            return;
        }
        try {
            Thread.sleep(Long.remainderUnsigned(mixed(order.id()), longestMillis + 1));
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new IllegalStateException(error);
        }
    }

    /** SplitMix64, as in benches/end_to_end/work.rs. */
    private static long mixed(long value) {
        long mixed = value + 0x9E3779B97F4A7C15L;
        mixed = (mixed ^ (mixed >>> 30)) * 0xBF58476D1CE4E5B9L;
        mixed = (mixed ^ (mixed >>> 27)) * 0x94D049BB133111EBL;
        return mixed ^ (mixed >>> 31);
    }
}
