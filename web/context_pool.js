/**
 * Which viewers hold a GL context. Browsers drop the oldest of some sixteen without asking, so past a limit that leaves
 * room for other extensions, the viewer that was used longest ago gives its own back.
 */

const LIMIT = 8
const holders = new Set() // in the order of their last use

/** Note that a viewer holds a context and is in use. Others may be told to release theirs. */
export function use(holder) {
  holders.delete(holder)
  holders.add(holder)
  for (const oldest of holders) {
    if (holders.size <= LIMIT) return
    holders.delete(oldest)
    oldest.parkContext()
  }
}

/** Note that a viewer's context is gone. */
export function drop(holder) {
  holders.delete(holder)
}

/** Viewers with a context. */
export function held() {
  return holders.size
}
