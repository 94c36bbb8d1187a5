"""Sounds as samples and as log-mel features, by soundfile and transformers' audio functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specc.elaborate.values import number
from specc.source import Span
from specc_runtime.libraries import needs
from specc_runtime.training.data.blobs import Blobs
from specc_runtime.training.data.columns import Array, Column, Decoded, bad
from specc_runtime.training.section import failed

ENDINGS = (".aiff", ".flac", ".mp3", ".ogg", ".wav")


@dataclass(frozen=True)
class Waves:
    """Sounds as [samples], the mean of their channels; short ones end in silence, long ones are cut."""

    blobs: Blobs
    span: Span
    rate: int
    samples: int

    def __call__(self, row: int) -> Array:
        import soundfile

        try:
            with self.blobs.open(row) as file:
                wave, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except (OSError, soundfile.SoundFileError) as error:
            raise self._broken(row, error) from None
        self._check_rate(row, rate)
        found = np.zeros(self.samples, np.float32)
        heard = wave.mean(axis=1)[: self.samples]
        found[: len(heard)] = heard
        return found

    def longest(self) -> int:
        """Samples of the longest sound; only the files' heads are read. T531 for what is no sound of this rate."""
        import soundfile

        most = 0
        for row in range(len(self.blobs)):
            try:
                with self.blobs.open(row) as file, soundfile.SoundFile(file) as sound:
                    rate, frames = sound.samplerate, sound.frames
            except (OSError, soundfile.SoundFileError) as error:
                raise self._broken(row, error) from None
            if not frames:
                raise bad(f"{self.blobs.place(row)}: the sound has no samples", self.span)
            most = max(most, frames)
            self._check_rate(row, rate)
        return most

    def _broken(self, row: int, error: Exception) -> Exception:
        return undecoded(self.blobs, row, error, self.span)

    def _check_rate(self, row: int, rate: int) -> None:
        if rate != self.rate:
            place = self.blobs.place(row)
            help = f"resample the files:  ffmpeg -i {place} -ar {self.rate} OUT.wav"
            raise bad(f"{place} has {rate:,} samples per second, expected {self.rate:,}", self.span, help)


def undecoded(blobs: Blobs, row: int, error: Exception, span: Span) -> Exception:
    """T531 of what soundfile cannot read; its message without the object that it was handed."""
    why = getattr(error, "error_string", None) or str(error)
    return bad(f"{blobs.place(row)}: the sound cannot be decoded: {why.strip().rstrip('.')}", span)


def waves(blobs: Blobs, like: Column | None, span: Span) -> Column:
    """`column("audio")`: sounds of one rate as samples, as many as the longest has."""
    needs("this data", "soundfile", span=span)
    import soundfile

    try:
        with blobs.open(0) as file:
            rate = soundfile.info(file).samplerate
    except (OSError, soundfile.SoundFileError) as error:
        raise undecoded(blobs, 0, error, span) from None
    make = Waves(blobs, span, rate, 0)
    longest = make.longest()
    make = replace(make, samples=like.row[0] if like is not None and like.row[0] is not None else longest)
    return Decoded(make, len(blobs), make(0))


@dataclass(frozen=True)
class LogMel:
    """A sound as [mels, samples // hop]: what Whisper reads (Radford et al., 2022).

    log10 of the power in mel bands of Slaney's scale, no more than 8 below the largest, shifted and scaled to about
    -1 .. 1.
    """

    waves: Waves
    window: int
    hop: int
    filters: Array = field(repr=False)

    def __call__(self, row: int) -> Array:
        from transformers.audio_utils import spectrogram, window_function

        power = spectrogram(
            self.waves(row), window_function(self.window, "hann"), frame_length=self.window, hop_length=self.hop,
            power=2.0, mel_filters=self.filters, log_mel="log10",
        )[:, :-1]  # fmt: skip
        values = np.maximum(power, power.max() - 8.0)
        scaled: Array = ((values + 4.0) / 4.0).astype(np.float32)
        return scaled


def log_mel(blobs: Blobs, given: Mapping[str, Any], like: Column | None, span: Span) -> Column:
    """`log_mel("audio", mels, sample_rate, window, hop, seconds)`; windows of 25 ms every 10 ms if not told.

    Without `seconds` all sounds are as long as the longest one of the data to train on.
    """
    needs("this data", "soundfile", "transformers", span=span)
    for name in ("mels", "sample_rate"):
        if name not in given:
            raise failed("E124", f"log_mel needs `{name}`", span, f'log_mel("audio", {_EXAMPLE})')
    for name in ("mels", "sample_rate", "window", "hop"):
        if type(given.get(name, 1)) is not int or given.get(name, 1) < 1:
            unit = " of samples" if name in ("window", "hop") else ""
            raise failed("E125", f"`{name}` is a whole number{unit} of at least 1", span)
    rate, mels = given["sample_rate"], given["mels"]
    window, hop = given.get("window", rate // 40), given.get("hop", rate // 100)
    seconds = given.get("seconds")
    if seconds is not None and not (number(seconds) and seconds > 0):
        raise failed("E125", "`seconds` is how much of each sound is heard, above 0", span)
    if min(window, hop) < 1 or mels > window // 2:
        raise failed("E125", f"{mels} mels of windows of {window} samples: give fewer, or longer windows", span)
    sound = Waves(blobs, span, rate, 0)
    longest = sound.longest()
    if like is not None and like.row[-1] is not None:
        longest = like.row[-1] * hop
    samples = round(seconds * rate) if seconds is not None else longest
    if samples < max(hop, window):
        raise bad(f"{blobs.place(0)}: the sounds have {samples} samples, a window has {window}", span)
    make = LogMel(replace(sound, samples=samples), window, hop, _filters(rate, window, mels))
    return Decoded(make, len(blobs), make(0))


_EXAMPLE = "mels = 40, sample_rate = 16_000"


def _filters(rate: int, window: int, mels: int) -> Array:
    from transformers.audio_utils import mel_filter_bank

    found: Array = mel_filter_bank(1 + window // 2, mels, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    return found
