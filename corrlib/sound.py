"""Taking the sound of one video file along into another.

What mp4 can hold is copied packet by packet, anything else is encoded again as AAC. Time stamps are
kept, counted from the start of the source, so that sound and picture stay together.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av

COPIED = ("aac", "mp3", "ac3", "eac3", "opus", "flac", "alac")
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


def origin(container: av.container.InputContainer) -> Fraction:
    """The second at which a file starts; some, transport streams above all, do not start at 0."""
    return Fraction(max(container.start_time or 0, 0), av.time_base)


class Sound:
    """The first sound track of ``source``, written to an open mp4 ``output`` as time goes on.

    ``note`` says what became of it: ``None`` where there is no sound, else one line. Damaged
    sound never stops a video: it ends where the damage begins, and the note says so.
    """

    def __init__(self, source: Path, output: av.container.OutputContainer) -> None:
        self.note: str | None = None
        self._output = output
        self._input: av.container.InputContainer | None = None
        self._waiting: Iterator[tuple[Fraction, av.Packet]] = iter(())
        self._next: tuple[Fraction, av.Packet] | None = None
        self._last_dts: int | None = None
        try:
            self._input = av.open(str(source))
            stream = self._input.streams.best("audio")
            if stream is not None:
                self._start = origin(self._input)
                self._add(stream)
                self._next = next(self._waiting, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._fail("sound left out", error)

    def _add(self, stream: av.AudioStream) -> None:
        context = stream.codec_context
        if context is None or not context.sample_rate or not context.channels:
            self.note = "sound left out (it is of an unknown kind)"
            return
        codec = context.codec.canonical_name
        if codec in COPIED:
            self._target = self._output.add_stream_from_template(stream)
            self._waiting = self._copied(stream)
            self.note = f"sound copied ({codec})"
            return
        self._target = self._output.add_stream(
            "aac",
            rate=context.sample_rate if context.sample_rate in AAC_RATES else 48000,
            layout="mono" if context.channels == 1 else "stereo",
        )
        self._waiting = self._encoded(stream)
        self.note = f"sound encoded as AAC (was {codec})"

    def advance(self, until: Fraction | None = None) -> None:
        """Write what is heard before the second ``until``; ``None`` writes all that is left."""
        try:
            while self._next is not None and (until is None or self._next[0] < until):
                self._output.mux(self._next[1])
                self._next = next(self._waiting, None)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._fail("sound is damaged and ends early", error)

    def close(self) -> None:
        self._waiting = iter(())
        if self._input is not None:
            self._input.close()

    def _fail(self, what: str, error: Exception) -> None:
        self._next = None
        self.note = f"{what} ({(str(error) or type(error).__name__).splitlines()[0]})"

    def _copied(self, stream: av.AudioStream) -> Iterator[tuple[Fraction, av.Packet]]:
        for packet in self._input.demux(stream):
            if packet.dts is None or packet.pts is None or packet.is_corrupt:
                continue  # the empty packet at the end, and what no player could place
            if self._last_dts is not None and packet.dts <= self._last_dts:
                continue
            self._last_dts = packet.dts
            shift = round(self._start / packet.time_base)
            packet.dts -= shift
            packet.pts -= shift
            second = packet.pts * packet.time_base
            packet.stream = self._target
            yield second, packet

    def _encoded(self, stream: av.AudioStream) -> Iterator[tuple[Fraction, av.Packet]]:
        context = self._target.codec_context
        frames = self._input.decode(stream)
        while (frame := next(frames, None)) is not None:
            if frame.pts is not None:
                frame.pts -= round(self._start / frame.time_base)
            yield from self._timed(context.encode(frame))
        yield from self._timed(context.encode(None))

    def _timed(self, packets: list[av.Packet]) -> Iterator[tuple[Fraction, av.Packet]]:
        for packet in packets:
            packet.stream = self._target
            yield (packet.pts or 0) * packet.time_base, packet
