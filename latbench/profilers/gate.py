"""A gate on a stream: work waits behind the gate while it is enqueued, then runs without gaps.

Launching kernels one by one from the processor can take longer than computing them. If the stream
is held during the launches, the time between two events on it is the GPU's work alone, as in
NVBench.

The gate is a kernel with one thread. It reads a word of the processor's memory until the word
reaches the number of this turn. It gives up after a second, because two kinds of calls would wait
for ever: calls that wait for the GPU while the gate is closed, and calls with more launches than a
stream can queue (some thousand). ``cuStreamWaitValue32`` needs no kernel, but it never gives up.
"""

from __future__ import annotations

from ctypes import c_uint, c_uint64

from latbench.profilers.driver import CudaDriver

_LIMIT_NS = 1_000_000_000
# hold(word, turn, limit_ns): until word[0] >= turn, counted modulo 2^32, or word[1] = turn at the
# limit. For any GPU of compute capability 6.0 or later; the driver compiles it.
KERNEL = b"""
.version 6.0
.target sm_60
.address_size 64

.visible .entry hold(.param .u64 word, .param .u32 turn, .param .u64 limit_ns)
{
    .reg .pred %late, %open;
    .reg .b32 %turn, %seen, %ahead;
    .reg .b64 %word, %limit, %begin, %now;

    ld.param.u64 %word, [word];
    ld.param.u32 %turn, [turn];
    ld.param.u64 %limit, [limit_ns];
    cvta.to.global.u64 %word, %word;
    mov.u64 %begin, %globaltimer;
WAIT:
    ld.volatile.global.u32 %seen, [%word];
    sub.s32 %ahead, %seen, %turn;
    setp.ge.s32 %open, %ahead, 0;
    @%open bra DONE;
    mov.u64 %now, %globaltimer;
    sub.u64 %now, %now, %begin;
    setp.lt.u64 %late, %limit, %now;
    @!%late bra WAIT;
    st.volatile.global.u32 [%word+4], %turn;
DONE:
    ret;
}
\0"""


class Gate:
    """A gate that can be closed repeatedly on any stream of the GPU.

    Raises:
        CudaError: The driver cannot compile or run the gate.
    """

    def __init__(self, driver: CudaDriver, stream: int) -> None:
        self._driver = driver
        self._words, self._address = driver.shared_words(2)
        self._kernel = driver.load_kernel(KERNEL, "hold")
        self._turn = 0
        self.hold(stream)  # loads the kernel now, so that no later turn waits for it
        self.release()
        driver.synchronize(stream)

    def hold(self, stream: int) -> None:
        """Close the gate: work that is put on the stream afterwards waits."""
        self._turn = (
            self._turn % (2**32 - 1) + 1
        )  # never 0, the initial value of the word for late turns
        arguments = (c_uint64(self._address), c_uint(self._turn), c_uint64(_LIMIT_NS))
        self._driver.launch(self._kernel, arguments, stream)

    def release(self) -> None:
        """Open the gate."""
        self._words[0] = self._turn

    @property
    def gave_up(self) -> bool:
        """Whether the last turn ended before ``release``; known once the stream has passed it."""
        return bool(self._words[1] == self._turn)
