"""The one table of expressions that all stages are tested on: a row per feature and per known bug class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Expression:
    """A row: `numpy` says whether np.einsum accepts it; `why` what it is here for."""

    text: str
    shapes: tuple[Shape, ...]
    why: str
    numpy: bool = True

    def __str__(self) -> str:
        return self.text if len(self.text) <= 40 else self.text[:37] + "..."


def _row(text: str, *shapes: Shape, why: str, numpy: bool = True) -> Expression:
    return Expression(text, shapes, why, numpy)


def random_operands(row: Expression, dtype: str = "float64") -> list[np.ndarray]:
    """Return operands of `row`, the same at every call: quarters within 2, so that small sums are exact."""
    rng = np.random.default_rng(20240229)
    drawn = [rng.integers(-8, 9, size=shape) / 4.0 for shape in row.shapes]
    if np.dtype(dtype).kind == "c":
        return [
            (x + 1j * rng.integers(-8, 9, size=x.shape) / 4.0).astype(dtype) for x in map(np.asarray, drawn)
        ]
    return [np.asarray(x).astype(dtype) for x in drawn]


EXPRESSIONS = (
    # one operand
    _row("i->i", (4,), why="nothing to do"),
    _row("ij->ij", (2, 3), why="nothing to do, two modes"),
    _row("->", (), why="a scalar"),
    _row("i->", (5,), why="sum of everything"),
    _row("ij->i", (2, 3), why="sum over the last axis"),
    _row("ij->j", (2, 3), why="sum over the first axis"),
    _row("ij->ji", (2, 3), why="transpose"),
    _row("ijk->kij", (2, 3, 4), why="cyclic permutation"),
    _row("ijk->j", (2, 3, 4), why="sum over both sides of a kept axis"),
    _row("ii->i", (4, 4), why="diagonal"),
    _row("ii->", (4, 4), why="trace"),
    _row("iii->i", (3, 3, 3), why="diagonal of three axes"),
    _row("iijj->ij", (3, 3, 4, 4), why="two diagonals"),
    _row("ijij->ji", (2, 3, 2, 3), why="two interleaved diagonals, transposed"),
    _row("abcb->ac", (5, 3, 5, 3), why="inner trace"),
    _row("iji->j", (3, 2, 3), why="trace around a kept axis"),
    # implicit outputs
    _row("ba", (2, 3), why="implicit output is sorted: a transpose"),
    _row("aB", (2, 3), why="implicit order is by code point: B before a"),
    _row("ij,jk", (2, 3), (3, 4), why="implicit output of a matrix product"),
    _row("ij,ji", (2, 3), (3, 2), why="implicit output is a scalar"),
    _row("ii", (3, 3), why="implicit output drops a repeated mode"),
    _row("ba,cb", (3, 2), (4, 3), why="implicit output in another order than the operands"),
    _row(" i j , j k -> i k ", (2, 3), (3, 4), why="blanks anywhere"),
    # two operands
    _row("i,i->", (4,), (4,), why="inner product"),
    _row("i,i->i", (4,), (4,), why="elementwise product"),
    _row("i,j->ij", (2,), (3,), why="outer product"),
    _row("i,j->", (2,), (3,), why="product of two sums"),
    _row("ij,j->i", (2, 3), (3,), why="matrix times vector"),
    _row("j,jk->k", (3,), (3, 4), why="vector times matrix"),
    _row("ij,jk->ik", (2, 3), (3, 4), why="matrix product"),
    _row("ij,jk->ki", (2, 3), (3, 4), why="matrix product, transposed result"),
    _row("ji,kj->ik", (3, 2), (4, 3), why="both operands transposed"),
    _row("ij,kj->ik", (2, 3), (4, 3), why="second operand transposed"),
    _row("bij,bjk->bik", (2, 3, 4), (2, 4, 5), why="batched matrix product"),
    _row("ibj,jbk->ikb", (3, 2, 4), (4, 2, 5), why="batch axis in the middle and at the end"),
    _row("abc,ab->ac", (2, 3, 4), (2, 3), why="batch mode kept: no tensordot form"),
    _row("iaj,jbq->abiq", (4, 6, 8), (8, 3, 5), why="open modes interleaved: address arithmetic"),
    _row("abcd,cdef->abef", (2, 3, 4, 2), (4, 2, 3, 2), why="two summed modes side by side: they merge"),
    _row("abcd,dcef->abef", (2, 3, 4, 2), (2, 4, 3, 2), why="summed modes in opposite orders: no merging"),
    _row("ij,k->k", (2, 3), (4,), why="an operand that only contributes a factor"),
    _row("ij,jk->k", (2, 3), (3, 4), why="a mode of one operand alone is summed"),
    _row("ij,jk->", (2, 3), (3, 4), why="everything summed"),
    _row("ij,ij->ij", (2, 3), (2, 3), why="Hadamard product"),
    _row("ij,ji->ij", (3, 4), (4, 3), why="Hadamard product with a transpose"),
    _row("ac,b->abc", (3, 4), (2,), why="outer product into the middle"),
    _row("noq,npq->nop", (2, 3, 4), (2, 6, 4), why="batched outer-inner product"),
    _row("ab,cd->acbd", (2, 3), (4, 5), why="Kronecker product"),
    _row("ii,ij->j", (3, 3), (3, 4), why="diagonal of an operand of a product"),
    _row("ii,jj->ij", (3, 3), (2, 2), why="outer product of diagonals"),
    _row("iij,jkk->ik", (3, 3, 2), (2, 4, 4), why="diagonals on both sides of a bond"),
    _row(",ij->ij", (), (2, 3), why="scalar times matrix"),
    _row("i,->i", (3,), (), why="vector times scalar"),
    _row(",,->", (), (), (), why="product of scalars"),
    # several operands
    _row("ij,jk,kl->il", (2, 3), (3, 4), (4, 5), why="chain"),
    _row("ij,jk,ki->", (2, 3), (3, 4), (4, 2), why="closed chain"),
    _row("ab,bc,cd,de,ef->af", (2, 3), (3, 2), (2, 4), (4, 2), (2, 3), why="longer chain"),
    _row("ijk,ilm,njm,nlk,abc->", *((2, 2, 2),) * 5, why="tetrahedron times a lone factor"),
    _row("fdf,cdd,ccd,afe->ae", (2, 3, 2), (4, 3, 3), (4, 4, 3), (5, 2, 2), why="repeats in every term"),
    _row("dcc,fce,ea,dbf->ab", (2, 3, 3), (4, 3, 2), (2, 3), (2, 3, 4), why="repeat beside a network"),
    _row("ea,fb,abcd,gc,hd->efgh", (3, 2), (2, 2), (2, 2, 2, 2), (2, 2), (3, 2), why="change of basis"),
    _row("ab,ab,cd,cd->ac", (2, 3), (2, 3), (4, 2), (4, 2), why="two components"),
    _row("a,ab,abc->abc", (2,), (2, 3), (2, 3, 4), why="hyperedges kept in the output"),
    _row("s,si,sj->ij", (7,), (7, 3), (7, 4), why="hyperedge summed: three operands share a mode"),
    _row("r,ir,jr,kr->ijk", (3,), (2, 3), (4, 3), (2, 3), why="CP format"),
    _row("abc,ia,jb,kc->ijk", (2, 3, 2), (4, 2), (3, 3), (2, 2), why="Tucker format"),
    _row("ia,ajb,bkc,cl->ijkl", (2, 2), (2, 3, 2), (2, 2, 2), (2, 3), why="tensor train"),
    _row("AiB,BjC,CkA->ijk", (2, 3, 2), (2, 2, 3), (3, 2, 2), why="tensor ring: capital letters"),
    _row("ioA,AjpB,Bkq,bijk->bopq", (2, 3, 2), (2, 2, 2, 2), (2, 3, 2), (4, 2, 2, 3), why="TT-matrix layer"),
    _row("rmnq,rmsq,bnq->bms", (2, 2, 3, 2), (2, 2, 4, 2), (3, 3, 2), why="block tensor train: hyperedges"),
    _row("sil,sjm,lm->ij", (2, 3, 4), (2, 2, 3), (4, 3), why="Kronecker sum applied"),
    _row("ij,ij,ij->", (2, 3), (2, 3), (2, 3), why="three operands on the same modes"),
    _row("ij,ij,jk,jk->ik", (2, 3), (2, 3), (3, 2), (3, 2), why="equal terms twice"),
    # ellipses
    _row("...->...", (2, 3), why="ellipsis alone"),
    _row("...i->...", (2, 3), why="sum over the last axis of anything"),
    _row("i...->...i", (2, 3, 4), why="move an axis"),
    _row("i...", (2, 3), why="implicit output puts the ellipsis first"),
    _row("ii...->i...", (3, 3, 2), why="diagonal beside an ellipsis"),
    _row("...ij,...jk->...ik", (2, 3, 4), (2, 4, 5), why="batched by ellipsis"),
    _row("...ij,...jk->...ik", (1, 2, 3), (5, 3, 4), why="ellipsis broadcasts an extent of 1"),
    _row("...ij,...jk->...ik", (2, 3), (4, 5, 3, 2), why="ellipses of different ranks"),
    _row("...ij,...jk", (2, 3), (3, 4), why="ellipsis covers no axes"),
    _row("i...j,j->...i", (2, 3, 4, 2), (2,), why="ellipsis in the middle of one term only"),
    _row("i...,i->...", (3, 4, 2), (3,), why="ellipsis in one term"),
    _row("...,...->...", (2, 3), (3,), why="only ellipses"),
    _row("i...->i", (2, 3, 4), why="an ellipsis left out of the output is summed", numpy=False),
    # extents 0 and 1
    _row("ij,j->i", (0, 3), (3,), why="empty result"),
    _row("i->", (0,), why="empty sum is 0"),
    _row("ij,jk->ik", (2, 0), (0, 4), why="matrix product over an empty mode is 0"),
    _row("abc,a,b->c", (1, 1, 0), (1,), (1,), why="a cost of zero operations"),
    _row("i,i->", (2,), (1,), why="extent 1 broadcasts and is summed"),
    _row("i,i->i", (1,), (3,), why="extent 1 broadcasts and is kept"),
    _row("ij,ij->ij", (2, 1), (1, 3), why="extent 1 on both sides"),
    _row("ijp,ipq,ikq->ijk", (3, 1, 1), (1, 3, 3), (1, 3, 3), why="extent 1 broadcasts in a network"),
    _row("bijk,bilm->bjklm", (1, 3, 2, 2), (5, 3, 2, 2), why="a batch of 1 is no plain batched product"),
    _row("ii,i->i", (1, 1), (3,), why="a diagonal of extent 1 broadcasts"),
    _row("cacc,bcb->", (1, 1, 1, 1), (1, 4, 1), why="repeats of extent 1 broadcast"),
    _row("ij,jk->ik", (1, 1), (1, 1), why="all extents 1"),
    # beyond np.einsum
    _row("i->ii", (3,), why="repeated output: a diagonal matrix", numpy=False),
    _row("ii->ii", (3, 3), why="keeps the diagonal and zeroes the rest", numpy=False),
    _row("ij->iji", (2, 3), why="repeated output around another mode", numpy=False),
    _row("ij,jk->ikk", (2, 3), (3, 2), why="matrix product onto a diagonal", numpy=False),
    _row("i,j->iijj", (2,), (3,), why="two repeated output modes", numpy=False),
    _row("ij,jk->ik,i", (2, 3), (3, 4), why="two outputs", numpy=False),
    _row("ij,jk,kl->il,ik,", (2, 3), (3, 4), (4, 2), why="three outputs, one of them a scalar", numpy=False),
    _row("αβ,βγ->αγ", (2, 3), (3, 4), why="letters beyond ASCII", numpy=False),
)  # fmt: skip
