"""Our tokenizers as a Hugging Face `tokenizer.json`, with the same ids, for models that leave Escala."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer.data.tokenize.byte_characters import CHARACTER_OF
from trainer.data.tokenize.huggingface_tokenizer import HuggingFace
from trainer.data.tokenize.segments import SPACE
from trainer.data.tokenize.tokenizer import Bytes, SentencePiece, Tokenizer, load_tokenizer, locate_tokenizer, read_meta


def tokenizer_json(directory: Path) -> tuple[str, str] | None:
    """Return the content of a tokenizer.json for the tokenizer in a directory, and its end token.

    None for a sentencepiece model that normalises text or marks its beginning, which the format says otherwise.
    """
    tokenizer = load_tokenizer(directory)
    if isinstance(tokenizer, HuggingFace):
        path = locate_tokenizer(directory)
        return (path / str(read_meta(path)["file"])).read_text(encoding="utf-8"), tokenizer.end
    made = _of_bytes() if isinstance(tokenizer, Bytes) else _of_sentencepiece(tokenizer)
    return None if made is None else (str(made.to_str(pretty=True)), tokenizer.piece(tokenizer.eos_id))


def _of_bytes() -> Any:
    """Return a byte-level BPE without merges, whose 256 characters are numbered by the byte that they stand for."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    made = Tokenizer(models.BPE({CHARACTER_OF[byte]: byte for byte in range(256)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(Bytes().piece(Bytes.eos_id), special=True, normalized=False)])
    return made


def _of_sentencepiece(tokenizer: Tokenizer) -> Any | None:
    """Return the model with its pieces and their order; a merge of BPE is any cut of a piece into two others."""
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    assert isinstance(tokenizer, SentencePiece)
    proto = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.content)
    text, trained = proto.normalizer_spec, proto.trainer_spec
    if text.precompiled_charsmap or text.add_dummy_prefix or text.remove_extra_whitespaces:
        return None
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    if trained.model_type == trained.BPE:
        number = {piece.piece: n for n, piece in enumerate(proto.pieces) if piece.type == piece.NORMAL}
        merges = [
            (score, piece[:cut], piece[cut:])
            for piece, score in pieces
            for cut in range(1, len(piece) if piece in number else 0)
            if piece[:cut] in number and piece[cut:] in number
        ]
        merges.sort(key=lambda merge: -merge[0])
        model: models.Model = models.BPE(
            {piece: n for n, (piece, _) in enumerate(pieces)},
            [(left, right) for _, left, right in merges],
            unk_token=pieces[trained.unk_id][0],
            fuse_unk=True,
            byte_fallback=trained.byte_fallback,
        )
    elif trained.model_type == trained.UNIGRAM:
        model = models.Unigram(pieces, unk_id=trained.unk_id, byte_fallback=trained.byte_fallback)
    else:
        return None
    made = Tokenizer(model)
    made.normalizer = normalizers.Replace(" ", SPACE)
    made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    own = [AddedToken(p.piece, special=False, normalized=False) for p in proto.pieces if p.type == p.USER_DEFINED]
    control = [AddedToken(p.piece, special=True, normalized=False) for p in proto.pieces if p.type == p.CONTROL]
    made.add_tokens(own)
    made.add_special_tokens(control)
    return made
